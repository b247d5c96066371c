// Cost-volume attention on CPUs, forward and backward. Compiled on the user's machine by build.py, called by op.py.
//
// A unit of work is a band of rows of one frame pair and head. The maps of its reach are copied, padded, into scratch
// memory that fits the cache, so that window entry (i, j) of the position at offset p is always at p + i * pitch + j.
// Nothing of size P * D is ever formed, and units write to places of their own: results do not depend on threads.
//
// Two inner loops do nearly all of the arithmetic:
//   correlate   products of a map with the windows around each position: LANES positions at once, channels one by one
//   aggregate   weighted sums over windows: channels at once, window entries one by one
//
// Maps are [B, N, T, H, W, D] with any strides but that of D, which is 1. They are stored in float, double, bfloat16
// or half precision; arithmetic is in double for double and in float otherwise.

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace {

using Index = std::int64_t;

struct BFloat16 {
    std::uint16_t bits;
};

template <typename Stored>
struct Arithmetic {
    using type = Stored;
};
template <>
struct Arithmetic<BFloat16> {
    using type = float;
};

#ifdef __FLT16_MAX__  // compilers since 2022
template <>
struct Arithmetic<_Float16> {
    using type = float;
};
inline float widen(_Float16 x) { return static_cast<float>(x); }
inline void narrow(float x, _Float16& to) { to = static_cast<_Float16>(x); }
#endif

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(BFloat16 x) {
    const std::uint32_t bits = std::uint32_t{x.bits} << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline void narrow(float x, float& to) { to = x; }
inline void narrow(double x, double& to) { to = x; }
inline void narrow(float x, BFloat16& to) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    // Round to nearest even; a NaN must not be rounded up to infinity.
    to.bits = x != x ? 0x7fc0 : static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// 64 bytes of numbers: one AVX-512 register, or as many smaller ones as the compiler needs.
template <typename Real>
struct Lanes;
template <>
struct Lanes<float> {
    static constexpr int count = 16;
    typedef float Vector __attribute__((vector_size(64), aligned(64)));
    typedef float Unaligned __attribute__((vector_size(64), aligned(4)));
    typedef std::int32_t Integers __attribute__((vector_size(64)));
};
template <>
struct Lanes<double> {
    static constexpr int count = 8;
    typedef double Vector __attribute__((vector_size(64), aligned(64)));
    typedef double Unaligned __attribute__((vector_size(64), aligned(8)));
};

template <typename Real>
using Vector = typename Lanes<Real>::Vector;

template <typename Real>
inline Vector<Real> load(const Real* from) {
    return *reinterpret_cast<const typename Lanes<Real>::Unaligned*>(from);
}

template <typename Real>
inline void store(Real* to, Vector<Real> x) {
    *reinterpret_cast<typename Lanes<Real>::Unaligned*>(to) = x;
}

inline Vector<double> exponential(Vector<double> x) {
    for (int lane = 0; lane < Lanes<double>::count; ++lane) x[lane] = std::exp(x[lane]);
    return x;
}

// exp of x <= 0, within 2 units in the last place: 2^n times a polynomial on [-ln(2) / 2, ln(2) / 2].
inline Vector<float> exponential(Vector<float> x) {
    x = x < -87.0f ? Vector<float>{} - 87.0f : x;
    const Vector<float> shifter = Vector<float>{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to whole numbers
    const Vector<float> n = (x * 1.44269504f + shifter) - shifter;
    const Vector<float> r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    Vector<float> y = r * 1.98756912e-4f + 1.39819994e-3f;
    y = y * r + 8.33345205e-3f;
    y = y * r + 4.16657962e-2f;
    y = y * r + 1.66666657e-1f;
    y = y * r + 0.5f;
    y = y * r * r + r + 1.0f;
    using Integers = Lanes<float>::Integers;
    const Integers power = (__builtin_convertvector(n, Integers) + 127) << 23;
    return y * (Vector<float>)power;  // a cast between vectors keeps the bits
}

struct Sizes {
    Index B, N, T, H, W, D, I, J;
    Index pairs() const { return T > 1 ? T - 1 : 1; }
    Index entries() const { return I * J; }
};

// Where a map lies: address and strides in elements; the last dimension lies side by side.
template <typename Element>
struct Map {
    Element* data;
    Index b, n, t, y, x;

    explicit Map(const Index* words)
        : data(reinterpret_cast<Element*>(words[0])), b(words[1]), n(words[2]), t(words[3]), y(words[4]), x(words[5]) {}
    Element* frame(Index batch, Index head, Index time) const { return data + batch * b + head * n + time * t; }
    Element* at(Index batch, Index head, Index time, Index row, Index column) const {
        return frame(batch, head, time) + row * y + column * x;
    }
};

template <typename Real>
class Scratch {
  public:
    explicit Scratch(Index size) {
        const std::size_t bytes = (static_cast<std::size_t>(size) * sizeof(Real) + 63) / 64 * 64;
        memory_.reset(static_cast<Real*>(std::aligned_alloc(64, std::max<std::size_t>(bytes, 64))));
        if (!memory_) throw std::bad_alloc();
        std::memset(memory_.get(), 0, bytes);  // lanes that lie outside are computed, too, and must not be NaN
    }
    Real* get() const { return memory_.get(); }

  private:
    struct Free {
        void operator()(Real* memory) const { std::free(memory); }
    };
    std::unique_ptr<Real, Free> memory_;
};

// Runs job(unit, thread) for every unit. In the OpenMP threads of PyTorch where they can be found: those stay awake
// for a while after each operator, and threads of our own would have to share the cores with them.
class Team {
  public:
    explicit Team(Index threads) : threads_(std::max<Index>(1, threads)) {}

    template <typename MakeJob>
    void run(Index units, const MakeJob& make_job) const {
        std::atomic<Index> next{0};
        std::atomic<bool> failed{false};
        const std::function<void()> work = [&] {
            try {
                auto job = make_job();
                for (Index unit; (unit = next.fetch_add(1)) < units;) job(unit);
            } catch (const std::bad_alloc&) {
                failed = true;
            }
        };
        const Index threads = std::min(threads_, units);
        using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
        static const auto parallel = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
        if (threads == 1) {
            work();
        } else if (parallel) {
            parallel([](void* data) { (*static_cast<const std::function<void()>*>(data))(); },
                     const_cast<std::function<void()>*>(&work), static_cast<unsigned>(threads), 0);
        } else {
            std::vector<std::thread> others;
            for (Index thread = 1; thread < threads; ++thread) others.emplace_back(work);
            work();
            for (auto& other : others) other.join();
        }
        if (failed) throw std::bad_alloc();
    }

  private:
    Index threads_;
};

// A band of rows of a frame and the reach of its windows, padded on all sides.
struct Band {
    Index top, rows, W, I, J, pitch;

    Band(const Sizes& s, Index number, Index height)
        : top(number * height), rows(std::min(height, s.H - top)), W(s.W), I(s.I), J(s.J), pitch(s.W + s.J - 1) {}
    Index reach() const { return rows + I - 1; }
};

// Rows of a band: few enough for the scratch memory to stay in the cache, many enough to make the margins cheap.
Index band_height(const Sizes& s) {
    const Index row = (s.W + s.J - 1) * s.D;
    const Index fits = 64 * 1024 / std::max<Index>(row, 1) - (s.I - 1);
    return std::min(s.H, std::max({fits, s.I, Index{4}}));
}

Index band_count(const Sizes& s) { return (s.H + band_height(s) - 1) / band_height(s); }

// The band's reach of a frame as [position][channel], channels filled up to whole vectors, `pad` outside the frame.
template <typename Stored, typename Real>
void copy_rows(Real* to, Index width, const Stored* frame, Index stride_y, Index stride_x, const Sizes& s,
               const Band& band, Real pad) {
    for (Index row = 0; row < band.reach(); ++row) {
        const Index y = band.top + row - s.I / 2;
        Real* out = to + row * band.pitch * width;
        for (Index column = 0; column < band.pitch; ++column, out += width) {
            const Index x = column - s.J / 2;
            if (y < 0 || y >= s.H || x < 0 || x >= s.W) {
                std::fill(out, out + s.D, pad);
                continue;
            }
            const Stored* from = frame + y * stride_y + x * stride_x;
            for (Index d = 0; d < s.D; ++d) out[d] = widen(from[d]);
        }
    }
}

// The elements of two vectors in turn, from their lower and from their upper halves.
template <std::size_t... lane>
inline Vector<float> interleave(Vector<float> a, Vector<float> b, std::size_t half, std::index_sequence<lane...>) {
    return half == 0 ? __builtin_shufflevector(a, b, (lane % 2 * 16 + lane / 2)...)
                     : __builtin_shufflevector(a, b, (lane % 2 * 16 + lane / 2 + 8)...);
}
template <std::size_t... lane>
inline Vector<double> interleave(Vector<double> a, Vector<double> b, std::size_t half, std::index_sequence<lane...>) {
    return half == 0 ? __builtin_shufflevector(a, b, (lane % 2 * 8 + lane / 2)...)
                     : __builtin_shufflevector(a, b, (lane % 2 * 8 + lane / 2 + 4)...);
}

// A square of as many rows as lanes. Interleaving rows that are half the square apart turns the bits of (row, column)
// round by one place; once for each bit of the row, and rows and columns have changed sides.
template <typename Real>
void transpose_square(Real* to, Index to_stride, const Real* from, Index from_stride) {
    constexpr int lanes = Lanes<Real>::count;
    const auto every_lane = std::make_index_sequence<lanes>{};
    Vector<Real> rows[lanes], next[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) rows[i] = load(from + i * from_stride);
#pragma GCC unroll 4
    for (int bit = 1; bit < lanes; bit *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < lanes / 2; ++i) {
            next[2 * i] = interleave(rows[i], rows[i + lanes / 2], 0, every_lane);
            next[2 * i + 1] = interleave(rows[i], rows[i + lanes / 2], 1, every_lane);
        }
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) rows[i] = next[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) store(to + i * to_stride, rows[i]);
}

// [rows][columns] to [columns][rows], both multiples of the lanes.
template <typename Real>
void transpose(Real* to, Index to_stride, const Real* from, Index from_stride, Index rows, Index columns) {
    constexpr Index side = Lanes<Real>::count;
    for (Index row = 0; row < rows; row += side)
        for (Index column = 0; column < columns; column += side)
            transpose_square(to + column * to_stride + row, to_stride, from + row * from_stride + column, from_stride);
}

// COUNT neighbouring window entries of LANES positions: sums over channels of a[d] * b[d], b one position on for each.
template <typename Real, int COUNT>
void correlate_entries(Real* out, const Real* a, const Real* b, Index length, Index D) {
    constexpr int lanes = Lanes<Real>::count;
    Vector<Real> sum[COUNT] = {};
    for (Index d = 0; d < D; ++d) {
        const Vector<Real> x = load(a + d * lanes);
        for (int entry = 0; entry < COUNT; ++entry) sum[entry] += x * load(b + d * length + entry);
    }
    for (int entry = 0; entry < COUNT; ++entry) store(out + entry * lanes, sum[entry]);
}

// out[entry][lane]: all window entries of LANES positions. a is [channel][lane], b [channel][position].
template <typename Real>
void correlate(Real* out, const Real* a, const Real* b, Index length, Index D, const Band& band) {
    constexpr int lanes = Lanes<Real>::count;
    using Entries = void (*)(Real*, const Real*, const Real*, Index, Index);
    static constexpr Entries by_count[] = {
        correlate_entries<Real, 1>, correlate_entries<Real, 2>, correlate_entries<Real, 3>, correlate_entries<Real, 4>,
        correlate_entries<Real, 5>, correlate_entries<Real, 6>, correlate_entries<Real, 7>, correlate_entries<Real, 8>,
    };
    for (Index i = 0; i < band.I; ++i)
        for (Index j = 0; j < band.J; j += 8) {
            const Index count = std::min<Index>(8, band.J - j);
            by_count[count - 1](out + (i * band.J + j) * lanes, a, b + i * band.pitch + j, length, D);
        }
}

// Sums over the window of weight[entry][lane] * rows[window position] for two neighbouring positions and COUNT vectors
// of channels. Neighbours share all but one column of their windows, so each row is loaded once for both.
template <typename Real, int COUNT>
void aggregate_two(Real* out, Index width, const Real* weight, const Real* rows, const Band& band) {
    constexpr int lanes = Lanes<Real>::count;
    Vector<Real> left[COUNT] = {}, right[COUNT] = {};
    for (Index i = 0; i < band.I; ++i) {
        const Real* row = rows + i * band.pitch * width;
        const Real* w = weight + i * band.J * lanes;
        for (int c = 0; c < COUNT; ++c) left[c] += w[0] * load(row + c * lanes);
        for (Index j = 1; j < band.J; ++j) {
            row += width;
            for (int c = 0; c < COUNT; ++c) {
                const Vector<Real> x = load(row + c * lanes);
                left[c] += w[j * lanes] * x;
                right[c] += w[(j - 1) * lanes + 1] * x;
            }
        }
        row += width;
        for (int c = 0; c < COUNT; ++c) right[c] += w[(band.J - 1) * lanes + 1] * load(row + c * lanes);
    }
    for (int c = 0; c < COUNT; ++c) {
        store(out + c * lanes, left[c]);
        store(out + width + c * lanes, right[c]);
    }
}

// out[lane][channel] for the lanes of one row of positions. rows is [position][channel]; where
// count is odd, one lane more is written.
template <typename Real>
void aggregate(Real* out, Index width, const Real* weight, const Real* rows, Index count, const Band& band) {
    constexpr int lanes = Lanes<Real>::count;
    for (Index lane = 0; lane < count; lane += 2)
        for (Index c = 0; c < width; c += 4 * lanes) {
            Real* to = out + lane * width + c;
            const Real* from = rows + lane * width + c;
            switch (std::min<Index>(4, (width - c) / lanes)) {
                case 1: aggregate_two<Real, 1>(to, width, weight + lane, from, band); break;
                case 2: aggregate_two<Real, 2>(to, width, weight + lane, from, band); break;
                case 3: aggregate_two<Real, 3>(to, width, weight + lane, from, band); break;
                default: aggregate_two<Real, 4>(to, width, weight + lane, from, band);
            }
        }
}

// Softmax over the entries, in each lane.
template <typename Real>
void softmax(Real* x, Index entries) {
    constexpr int lanes = Lanes<Real>::count;
    Vector<Real> top = load(x);
    for (Index p = 1; p < entries; ++p) {
        const Vector<Real> value = load(x + p * lanes);
        top = value > top ? value : top;
    }
    Vector<Real> sum = {};
    for (Index p = 0; p < entries; ++p) {
        const Vector<Real> value = exponential(load(x + p * lanes) - top);
        sum += value;
        store(x + p * lanes, value);
    }
    const Vector<Real> share = 1 / sum;
    for (Index p = 0; p < entries; ++p) store(x + p * lanes, load(x + p * lanes) * share);
}

// Where a unit of work is. The last frame of several repeats the result of the last pair, which so has two copies.
struct Place {
    Index batch, head, pair, band, key_frame, copies;

    Place(Index unit, const Sizes& s, Index bands)
        : batch(unit / bands / s.pairs() / s.N),
          head(unit / bands / s.pairs() % s.N),
          pair(unit / bands % s.pairs()),
          band(unit % bands),
          key_frame(s.T > 1 ? pair + 1 : 0),
          copies(s.T > 1 && pair == s.T - 2 ? 2 : 1) {}
};

template <typename Real>
constexpr Index whole_vectors(Index count) {
    return (count + Lanes<Real>::count - 1) / Lanes<Real>::count * Lanes<Real>::count;
}

// Scratch memory of a thread. Channels and window entries are filled up to whole vectors.
template <typename Real>
struct Memory {
    static constexpr int lanes = Lanes<Real>::count;
    Index width, length, filled_entries;  // length: positions of a band's reach, and what the last vector reads past it
    Scratch<Real> rows, columns, lane_rows, lane_columns, entries, more_entries, added_entries, entry_rows;

    Memory(const Sizes& s, Index height)
        : width(whole_vectors<Real>(s.D)),
          length(whole_vectors<Real>((height + s.I - 1) * (s.W + s.J - 1) + lanes)),
          filled_entries(whole_vectors<Real>(s.entries())),
          rows(length * width),
          columns(length * width),
          lane_rows((lanes + 1) * width),
          lane_columns(width * lanes),
          entries(filled_entries * lanes),
          more_entries(filled_entries * lanes),
          added_entries(filled_entries * lanes),
          entry_rows(filled_entries * lanes) {}

    // The reach of a band as [channel][position]; uses up `rows`.
    template <typename Stored>
    void take_columns(const Stored* frame, Index stride_y, Index stride_x, const Sizes& s, const Band& band, Real pad) {
        copy_rows(rows.get(), width, frame, stride_y, stride_x, s, band, pad);
        transpose(columns.get(), length, rows.get(), width, whole_vectors<Real>(band.reach() * band.pitch), width);
    }

    // count positions of a map, side by side in a row, as [channel][lane]; `more`, if given, is added to them.
    template <typename Stored>
    void take_lanes(const Stored* from, Index stride_x, Index count, Index D, Real factor,
                    const Stored* more = nullptr) {
        Real* to = lane_rows.get();
        for (Index lane = 0; lane < count; ++lane, to += width) {
            for (Index d = 0; d < D; ++d) to[d] = widen(from[lane * stride_x + d]) * factor;
            if (more)
                for (Index d = 0; d < D; ++d) to[d] += widen(more[lane * stride_x + d]) * factor;
        }
        transpose(lane_columns.get(), lanes, lane_rows.get(), width, lanes, width);
    }

    // The affinities of count positions, to [entry][lane] and from there.
    void take_entries(Real* to, const Real* from, Index stride_x, Index count, Index P) {
        for (Index lane = 0; lane < count; ++lane)
            std::copy_n(from + lane * stride_x, P, entry_rows.get() + lane * filled_entries);
        transpose(to, lanes, entry_rows.get(), filled_entries, lanes, filled_entries);
    }
    void give_entries(Real* to, Index stride_x, const Real* from, Index count, Index P) {
        transpose(entry_rows.get(), filled_entries, from, lanes, filled_entries, lanes);
        for (Index lane = 0; lane < count; ++lane)
            std::copy_n(entry_rows.get() + lane * filled_entries, P, to + lane * stride_x);
    }

    template <typename Stored>
    void give_lanes(Stored* to, Index stride_x, Index count, Index D, Real factor) const {
        for (Index lane = 0; lane < count; ++lane)
            for (Index d = 0; d < D; ++d)
                narrow(lane_rows.get()[lane * width + d] * factor, to[lane * stride_x + d]);
    }
};

// Context of every query and, if affinity.data is given, the raw affinities.
template <typename Stored, typename Real>
void forward(const Sizes& s, Map<const Stored> q, Map<const Stored> k, Map<const Stored> v, const Real* rpb,
             Map<Stored> context, Map<Real> affinity, Real pad, const Team& team) {
    constexpr int lanes = Lanes<Real>::count;
    const Index height = band_height(s), bands = band_count(s), P = s.entries();
    const Real scale = 1 / std::sqrt(static_cast<Real>(s.D));

    team.run(s.B * s.N * s.pairs() * bands, [&] {
        return [&, m = std::make_shared<Memory<Real>>(s, height)](Index unit) {
            const Place at(unit, s, bands);
            const Band band(s, at.band, height);
            const Real* bias = rpb + at.head * P;
            Real* rows = m->rows.get();
            Real* entries = m->entries.get();

            m->take_columns(k.frame(at.batch, at.head, at.key_frame), k.y, k.x, s, band, pad);
            copy_rows(rows, m->width, v.frame(at.batch, at.head, at.key_frame), v.y, v.x, s, band, pad);

            for (Index row = 0; row < band.rows; ++row)
                for (Index x = 0; x < s.W; x += lanes) {
                    const Index count = std::min<Index>(lanes, s.W - x), y = band.top + row;
                    const Index offset = row * band.pitch + x;
                    m->take_lanes(q.at(at.batch, at.head, at.pair, y, x), q.x, count, s.D, scale);
                    correlate(entries, m->lane_columns.get(), m->columns.get() + offset, m->length, s.D, band);
                    for (Index p = 0; p < P; ++p) store(entries + p * lanes, load(entries + p * lanes) + bias[p]);
                    if (affinity.data)
                        for (Index copy = 0; copy < at.copies; ++copy)
                            m->give_entries(affinity.at(at.batch, at.head, at.pair + copy, y, x), affinity.x, entries,
                                            count, P);
                    softmax(entries, P);
                    aggregate(m->lane_rows.get(), m->width, entries, rows + offset * m->width, count, band);
                    for (Index copy = 0; copy < at.copies; ++copy)
                        m->give_lanes(context.at(at.batch, at.head, at.pair + copy, y, x), context.x, count, s.D,
                                      Real{1});
                }
        };
    });
}

// Gradients of the queries, and for each query the weights and the gradients of its raw affinities, which the
// gradients of keys and values are made of; [B, N, pairs, H, W, P] both. grad_bias: [B, N, pairs, bands, P].
template <typename Stored, typename Real>
void backward_queries(const Sizes& s, Map<const Stored> k, Map<const Stored> v, Map<const Real> affinity,
                      Map<const Stored> grad_context, Map<const Real> grad_affinity, Map<Stored> grad_q,
                      Real* weights, Real* grad_raw, Real* grad_bias, Real pad, const Team& team) {
    constexpr int lanes = Lanes<Real>::count;
    const Index height = band_height(s), bands = band_count(s), P = s.entries();
    const Real scale = 1 / std::sqrt(static_cast<Real>(s.D));

    team.run(s.B * s.N * s.pairs() * bands, [&] {
        return [&, m = std::make_shared<Memory<Real>>(s, height)](Index unit) {
            const Place at(unit, s, bands);
            const Band band(s, at.band, height);
            Real* rows = m->rows.get();
            Real* weight = m->entries.get();
            Real* grad = m->more_entries.get();
            Real* more = m->added_entries.get();
            Real* bias = grad_bias + unit * P;
            std::fill(bias, bias + P, Real{0});

            m->take_columns(v.frame(at.batch, at.head, at.key_frame), v.y, v.x, s, band, pad);
            copy_rows(rows, m->width, k.frame(at.batch, at.head, at.key_frame), k.y, k.x, s, band, pad);

            for (Index row = 0; row < band.rows; ++row)
                for (Index x = 0; x < s.W; x += lanes) {
                    const Index count = std::min<Index>(lanes, s.W - x), y = band.top + row;
                    const Index offset = row * band.pitch + x;
                    const Real* raw = affinity.at(at.batch, at.head, at.pair, y, x);
                    m->take_entries(weight, raw, affinity.x, count, P);
                    softmax(weight, P);

                    const Stored* from = grad_context.at(at.batch, at.head, at.pair, y, x);
                    const Stored* repeated = at.copies == 2 ? from + grad_context.t : nullptr;
                    m->take_lanes(from, grad_context.x, count, s.D, Real{1}, repeated);
                    correlate(grad, m->lane_columns.get(), m->columns.get() + offset, m->length, s.D, band);

                    Vector<Real> mean = {};
                    for (Index p = 0; p < P; ++p) mean += load(weight + p * lanes) * load(grad + p * lanes);
                    for (Index p = 0; p < P; ++p)
                        store(grad + p * lanes, load(weight + p * lanes) * (load(grad + p * lanes) - mean));
                    if (grad_affinity.data)
                        for (Index copy = 0; copy < at.copies; ++copy) {
                            m->take_entries(more, grad_affinity.at(at.batch, at.head, at.pair + copy, y, x),
                                            grad_affinity.x, count, P);
                            for (Index p = 0; p < P; ++p)
                                store(grad + p * lanes, load(grad + p * lanes) + load(more + p * lanes));
                        }

                    aggregate(m->lane_rows.get(), m->width, grad, rows + offset * m->width, count, band);
                    m->give_lanes(grad_q.at(at.batch, at.head, at.pair, y, x), grad_q.x, count, s.D, scale);

                    const Index query = (((at.batch * s.N + at.head) * s.pairs() + at.pair) * s.H + y) * s.W + x;
                    m->give_entries(weights + query * P, P, weight, count, P);
                    m->give_entries(grad_raw + query * P, P, grad, count, P);
                    for (Index lane = 0; lane < count; ++lane)
                        for (Index p = 0; p < P; ++p) bias[p] += grad_raw[(query + lane) * P + p];
                }
        };
    });
}

// COUNT vectors of channels of the gradients of one key and its value, from the queries whose windows hold it.
template <typename Real, int COUNT>
void gather_key(Real* grad_k, Real* grad_v, Index width, const Real* queries, const Real* grads, const Real* weights,
                const Real* grad_raw, const Sizes& s, Index first_y, Index y, Index x) {
    constexpr int lanes = Lanes<Real>::count;
    Vector<Real> key[COUNT] = {}, value[COUNT] = {};
    const Index first_i = std::max<Index>(0, y + s.I / 2 - (s.H - 1)), last_i = std::min(s.I - 1, y + s.I / 2);
    const Index first_j = std::max<Index>(0, x + s.J / 2 - (s.W - 1)), last_j = std::min(s.J - 1, x + s.J / 2);
    for (Index i = first_i; i <= last_i; ++i) {
        const Index query_y = y + s.I / 2 - i;
        for (Index j = first_j; j <= last_j; ++j) {
            const Index query_x = x + s.J / 2 - j, entry = (query_y * s.W + query_x) * s.entries() + i * s.J + j;
            const Index position = ((query_y - first_y) * s.W + query_x) * width;
            for (int c = 0; c < COUNT; ++c) {
                key[c] += grad_raw[entry] * load(queries + position + c * lanes);
                value[c] += weights[entry] * load(grads + position + c * lanes);
            }
        }
    }
    for (int c = 0; c < COUNT; ++c) {
        store(grad_k + c * lanes, key[c]);
        store(grad_v + c * lanes, value[c]);
    }
}

template <typename Stored, typename Real>
void backward_keys(const Sizes& s, Map<const Stored> q, Map<const Stored> grad_context, const Real* weights,
                   const Real* grad_raw, Map<Stored> grad_k, Map<Stored> grad_v, const Team& team) {
    constexpr int lanes = Lanes<Real>::count;
    const Index height = band_height(s), bands = band_count(s);
    const Index width = whole_vectors<Real>(s.D);
    const Real scale = 1 / std::sqrt(static_cast<Real>(s.D));

    struct Rows {
        Scratch<Real> queries, grads, key, value;
        Rows(Index size, Index width) : queries(size), grads(size), key(width), value(width) {}
    };
    team.run(s.B * s.N * s.pairs() * bands, [&] {
        return [&, m = std::make_shared<Rows>((height + s.I - 1) * s.W * width, width)](Index unit) {
            const Place at(unit, s, bands);
            const Index top = at.band * height, bottom = std::min(s.H, top + height);
            const Index first_y = std::max<Index>(0, top - s.I / 2), stop_y = std::min(s.H, bottom + s.I / 2);
            for (Index y = first_y; y < stop_y; ++y)
                for (Index x = 0; x < s.W; ++x) {
                    const Stored* query = q.at(at.batch, at.head, at.pair, y, x);
                    const Stored* grad = grad_context.at(at.batch, at.head, at.pair, y, x);
                    Real* to_query = m->queries.get() + ((y - first_y) * s.W + x) * width;
                    Real* to_grad = m->grads.get() + ((y - first_y) * s.W + x) * width;
                    for (Index d = 0; d < s.D; ++d) to_query[d] = widen(query[d]) * scale;
                    for (Index d = 0; d < s.D; ++d) to_grad[d] = widen(grad[d]);
                    if (at.copies == 2)
                        for (Index d = 0; d < s.D; ++d) to_grad[d] += widen(grad[grad_context.t + d]);
                }
            const Index frame = ((at.batch * s.N + at.head) * s.pairs() + at.pair) * s.H * s.W * s.entries();
            for (Index y = top; y < bottom; ++y)
                for (Index x = 0; x < s.W; ++x) {
                    for (Index c = 0; c < width; c += 4 * lanes) {
                        const auto gather = [&](auto count) {
                            gather_key<Real, decltype(count)::value>(
                                m->key.get() + c, m->value.get() + c, width, m->queries.get() + c, m->grads.get() + c,
                                weights + frame, grad_raw + frame, s, first_y, y, x);
                        };
                        switch (std::min<Index>(4, (width - c) / lanes)) {
                            case 1: gather(std::integral_constant<int, 1>{}); break;
                            case 2: gather(std::integral_constant<int, 2>{}); break;
                            case 3: gather(std::integral_constant<int, 3>{}); break;
                            default: gather(std::integral_constant<int, 4>{});
                        }
                    }
                    Stored* to_k = grad_k.at(at.batch, at.head, at.key_frame, y, x);
                    Stored* to_v = grad_v.at(at.batch, at.head, at.key_frame, y, x);
                    for (Index d = 0; d < s.D; ++d) narrow(m->key.get()[d], to_k[d]);
                    for (Index d = 0; d < s.D; ++d) narrow(m->value.get()[d], to_v[d]);
                }
        };
    });
}

template <typename Work>
int guarded(const Work& work) {
    try {
        work();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

// Returned: 0, or 1 where memory ran out. Maps are six words: address, strides of B, N, T, H and W in elements.
#define EMIM_EXPORT(NAME, STORED)                                                                                      \
    extern "C" int emim_forward_##NAME(const Index* sizes, const Index* q, const Index* k, const Index* v,             \
                                       const void* rpb, const Index* context, const Index* affinity, double pad,       \
                                       Index threads) {                                                                \
        using Real = Arithmetic<STORED>::type;                                                                         \
        return guarded([&] {                                                                                           \
            forward<STORED, Real>(*reinterpret_cast<const Sizes*>(sizes), Map<const STORED>(q), Map<const STORED>(k),  \
                                  Map<const STORED>(v), static_cast<const Real*>(rpb), Map<STORED>(context),           \
                                  Map<Real>(affinity), static_cast<Real>(pad), Team(threads));                         \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" int emim_backward_##NAME(const Index* sizes, const Index* q, const Index* k, const Index* v,            \
                                        const Index* affinity, const Index* grad_context, const Index* grad_affinity,  \
                                        const Index* grad_q, const Index* grad_k, const Index* grad_v, void* weights,  \
                                        void* grad_raw, void* grad_bias, double pad, Index threads) {                  \
        using Real = Arithmetic<STORED>::type;                                                                         \
        return guarded([&] {                                                                                           \
            const Sizes& s = *reinterpret_cast<const Sizes*>(sizes);                                                   \
            const Team team(threads);                                                                                  \
            backward_queries<STORED, Real>(                                                                            \
                s, Map<const STORED>(k), Map<const STORED>(v), Map<const Real>(affinity),                              \
                Map<const STORED>(grad_context), Map<const Real>(grad_affinity), Map<STORED>(grad_q),                  \
                static_cast<Real*>(weights), static_cast<Real*>(grad_raw), static_cast<Real*>(grad_bias),              \
                static_cast<Real>(pad), team);                                                                         \
            backward_keys<STORED, Real>(s, Map<const STORED>(q), Map<const STORED>(grad_context),                      \
                                        static_cast<const Real*>(weights), static_cast<const Real*>(grad_raw),         \
                                        Map<STORED>(grad_k), Map<STORED>(grad_v), team);                               \
        });                                                                                                            \
    }

EMIM_EXPORT(float32, float)
EMIM_EXPORT(float64, double)
EMIM_EXPORT(bfloat16, BFloat16)
#ifdef __FLT16_MAX__
EMIM_EXPORT(float16, _Float16)
#endif

// Rows of a band: how many bands the partial sums of the bias gradient are for.
extern "C" Index emim_bands(const Index* sizes) {
    return band_count(*reinterpret_cast<const Sizes*>(sizes));
}
