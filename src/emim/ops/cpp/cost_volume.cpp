// Cost-volume attention on CPUs, forward and backward. Compiled on the user's machine by library.py, called by op.py.
//
// A unit of work is a band of rows of one frame pair and head. The maps of its reach are copied into scratch memory
// that fits the cache, padded on the left and right, so that column j of the window of position x is always at x + j.
// Window rows outside the frame hold one constant and are not computed entry by entry. Nothing of size P * D is ever
// formed, and units write to places of their own: results do not depend on threads.
//
// Two inner loops do nearly all of the arithmetic, and keep their sums in registers:
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

// The vector layer: one register of numbers. EMIM_VECTOR_BYTES may be given to the compiler: every width works on every
// target, made of several registers or of a part of one, but the target's own is the fastest.
#if defined(__AVX512F__)
constexpr int register_bytes = 64, register_count = 32;
#elif defined(__AVX__)
constexpr int register_bytes = 32, register_count = 16;
#elif defined(__aarch64__)
constexpr int register_bytes = 16, register_count = 32;
#else
constexpr int register_bytes = 16, register_count = 16;
#endif
#ifdef EMIM_VECTOR_BYTES
constexpr int vector_bytes = EMIM_VECTOR_BYTES;
#else
constexpr int vector_bytes = register_bytes;
#endif
// Vectors that fit the registers together.
constexpr int vectors_held = vector_bytes <= register_bytes ? register_count
                                                            : register_count * register_bytes / vector_bytes;

template <typename Real>
struct Lanes {
    static constexpr int count = vector_bytes / sizeof(Real);
    typedef Real Vector __attribute__((vector_size(vector_bytes), aligned(vector_bytes)));
    typedef Real Unaligned __attribute__((vector_size(vector_bytes), aligned(sizeof(Real))));
};
typedef std::int32_t Integers __attribute__((vector_size(vector_bytes)));

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

template <typename Real>
constexpr Index whole_vectors(Index count) {
    return (count + Lanes<Real>::count - 1) / Lanes<Real>::count * Lanes<Real>::count;
}

// Two rows of a square with the elements exchanged that a transposition exchanges between them: those at lanes with
// BIT set of the row above, and those at lanes without of the row BIT below.
template <int BIT, typename V, std::size_t... lane>
inline void exchange(V& above, V& below, std::index_sequence<lane...>) {
    constexpr std::size_t lanes = sizeof...(lane);
    const V a = above, b = below;
    above = __builtin_shufflevector(a, b, (lane & BIT ? lanes + (lane ^ BIT) : lane)...);
    below = __builtin_shufflevector(a, b, (lane & BIT ? lanes + lane : lane | BIT)...);
}

template <int BIT, typename V, int lanes>
inline void exchange_all(V (&rows)[lanes]) {
    if constexpr (BIT > 0) {
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i)
            if (!(i & BIT)) exchange<BIT>(rows[i], rows[i | BIT], std::make_index_sequence<lanes>{});
        exchange_all<BIT / 2>(rows);
    }
}

// A square of as many rows as lanes.
template <typename Real>
inline void transpose_square(Real* to, Index to_stride, const Real* from, Index from_stride) {
    constexpr int lanes = Lanes<Real>::count;
    Vector<Real> rows[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) rows[i] = load(from + i * from_stride);
    exchange_all<lanes / 2>(rows);
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
    explicit Scratch(Index size, Real value = 0) {
        const std::size_t bytes = (static_cast<std::size_t>(size) * sizeof(Real) + 63) / 64 * 64;
        memory_.reset(static_cast<Real*>(std::aligned_alloc(64, std::max<std::size_t>(bytes, 64))));
        if (!memory_) throw std::bad_alloc();
        std::fill_n(memory_.get(), bytes / sizeof(Real), value);  // lanes that lie outside are computed, too
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

// A band of rows of a frame, and the rows of the frame that its windows reach.
struct Band {
    Index top, rows, first, reach;

    Band(const Sizes& s, Index number, Index height)
        : top(number * height),
          rows(std::min(height, s.H - top)),
          first(std::max<Index>(0, top - s.I / 2)),
          reach(std::min(s.H, top + rows + s.I / 2) - first) {}
};

// Rows of a band: few enough for the scratch memory to stay in the cache, many enough to make the margins cheap.
Index band_height(const Sizes& s) {
    const Index row = (s.W + s.J - 1) * s.D;
    const Index fits = 64 * 1024 / std::max<Index>(row, 1) - (s.I - 1);
    return std::min(s.H, std::max({fits, s.I, Index{4}}));
}

Index band_count(const Sizes& s) { return (s.H + band_height(s) - 1) / band_height(s); }
Index reach_height(const Sizes& s) { return std::min(s.H, band_height(s) + s.I - 1); }

// Columns of a padded row: the frame's, the margins, and what the last vector reads past them.
template <typename Real>
Index padded_width(const Sizes& s) {
    return whole_vectors<Real>(whole_vectors<Real>(s.W) + s.J - 1);
}

// One row of a frame as [position][channel], channels filled up to whole vectors. The margins are left as they are.
template <typename Stored, typename Real>
void copy_row(Real* to, Index width, const Stored* from, Index stride_x, const Sizes& s, Real factor = 1,
              const Stored* added = nullptr) {
    to += s.J / 2 * width;
    for (Index x = 0; x < s.W; ++x, to += width, from += stride_x) {
        for (Index d = 0; d < s.D; ++d) to[d] = widen(from[d]) * factor;
        if (added)
            for (Index d = 0; d < s.D; ++d) to[d] += widen(added[x * stride_x + d]) * factor;
    }
}

// COLUMNS neighbouring window entries of LANES positions in ROWS rows of positions, for one row b of keys: sums over
// channels of a[d] * b[d]. A row of positions further down sees b as the row before in its window.
template <typename Real, int ROWS, int COLUMNS>
void correlate_tile(Real* out, Index out_stride, const Real* a, Index a_stride, const Real* b, Index pitch, Index D) {
    constexpr int lanes = Lanes<Real>::count;
    Vector<Real> sum[ROWS][COLUMNS] = {};
    for (Index d = 0; d < D; ++d, a += lanes, b += pitch) {
        Vector<Real> x[ROWS];
        for (int row = 0; row < ROWS; ++row) x[row] = load(a + row * a_stride);
        for (int column = 0; column < COLUMNS; ++column) {
            const Vector<Real> y = load(b + column);
            for (int row = 0; row < ROWS; ++row) sum[row][column] += x[row] * y;
        }
    }
    for (int row = 0; row < ROWS; ++row)
        for (int column = 0; column < COLUMNS; ++column) store(out + row * out_stride + column * lanes, sum[row][column]);
}

constexpr int most_columns = std::max(1, std::min(8, vectors_held / 4));

template <typename Real, int ROWS, int... FEWER>
void correlate_columns(Real* out, Index out_stride, const Real* a, Index a_stride, const Real* b, Index pitch,
                       const Sizes& s, std::integer_sequence<int, FEWER...>) {
    using Tile = void (*)(Real*, Index, const Real*, Index, const Real*, Index, Index);
    static constexpr Tile by_columns[] = {correlate_tile<Real, ROWS, FEWER + 1>...};
    const Index parts = (s.J + most_columns - 1) / most_columns, most = (s.J + parts - 1) / parts;
    for (Index j = 0; j < s.J; j += most) {
        const Index columns = std::min(most, s.J - j);
        by_columns[columns - 1](out + j * Lanes<Real>::count, out_stride, a, a_stride, b + j, pitch, s.D);
    }
}

// out[row][entry][lane]: all window entries of LANES positions in one or two rows from y on, which share most of their
// windows' rows. a is [row][channel][lane]; columns [key row][channel][position], from the band's first row on.
template <typename Real>
void correlate(Real* out, Index out_stride, const Real* a, Index a_stride, Index rows, const Real* columns, Index width,
               Index pitch, Index y, const Sizes& s, const Band& band, Real pad) {
    constexpr int lanes = Lanes<Real>::count;
    constexpr auto fewer = std::make_integer_sequence<int, most_columns>{};
    const Index line = s.J * lanes;
    for (Index i = 0; i < s.I + rows - 1; ++i) {  // of the window of the first row
        const Index key_y = y + i - s.I / 2, first = i < s.I ? 0 : 1, last = i > 0 ? rows - 1 : 0;
        if (key_y < 0 || key_y >= s.H) {
            for (Index row = first; row <= last; ++row) {
                Vector<Real> sum = {};
                for (Index d = 0; d < s.D; ++d) sum += load(a + row * a_stride + d * lanes);
                Real* to = out + row * out_stride + (i - row) * line;
                for (Index j = 0; j < s.J; ++j) store(to + j * lanes, sum * pad);
            }
            continue;
        }
        Real* to = out + first * out_stride + (i - first) * line;
        const Real* b = columns + (key_y - band.first) * width * pitch;
        if (first < last)
            correlate_columns<Real, 2>(to, out_stride - line, a, a_stride, b, pitch, s, fewer);
        else
            correlate_columns<Real, 1>(to, 0, a + first * a_stride, 0, b, pitch, s, fewer);
    }
}

// Where the weight of window entry (i, j) lies: at data + i * row + j * column, those of further positions behind it.
template <typename Real>
struct Weights {
    const Real* data;
    Index row, column;
};

// Sums over window rows of weight * rows[window position] for two neighbouring positions and COUNT vectors of channels.
// Neighbours share all but one column of their windows, so each position is loaded once for both.
template <typename Real, int COUNT>
void aggregate_two(Real* out, Index width, const Weights<Real>& weight, const Real* row, Index pitch, Index window_rows,
                   Index J, Real start_left, Real start_right) {
    constexpr int lanes = Lanes<Real>::count;
    Vector<Real> left[COUNT], right[COUNT];
    for (int c = 0; c < COUNT; ++c) left[c] = Vector<Real>{} + start_left;
    for (int c = 0; c < COUNT; ++c) right[c] = Vector<Real>{} + start_right;
    for (Index i = 0; i < window_rows; ++i) {
        const Real* at = row + i * pitch * width;
        const Real* w = weight.data + i * weight.row;
        for (int c = 0; c < COUNT; ++c) left[c] += w[0] * load(at + c * lanes);
        for (Index j = 1; j < J; ++j) {
            at += width;
            const Real to_right = w[1];
            w += weight.column;
            const Real to_left = w[0];
            for (int c = 0; c < COUNT; ++c) {
                const Vector<Real> x = load(at + c * lanes);
                left[c] += to_left * x;
                right[c] += to_right * x;
            }
        }
        at += width;
        for (int c = 0; c < COUNT; ++c) right[c] += w[1] * load(at + c * lanes);
    }
    for (int c = 0; c < COUNT; ++c) {
        store(out + c * lanes, left[c]);
        store(out + width + c * lanes, right[c]);
    }
}

constexpr int most_channels = std::max(1, std::min(4, vectors_held / 4));  // in vectors

// out[lane][channel]: the weighted sums of `count` neighbouring positions of row y. rows is [row][position][channel],
// from the band's first row on; window rows outside the frame hold `pad`, and only their weights are read. Where count
// is odd, one lane more is written.
template <typename Real>
void aggregate(Real* out, const Weights<Real>& weight, const Real* rows, Index width, Index pitch, Index count, Index y,
               const Sizes& s, const Band& band, Real pad) {
    constexpr int lanes = Lanes<Real>::count;
    const Index first = std::max<Index>(0, s.I / 2 - y), stop = std::min(s.I, s.H - y + s.I / 2);
    Real outside[lanes] = {};
    if (pad != 0 && stop - first < s.I) {
        Vector<Real> sum = {};
        for (Index i = 0; i < s.I; ++i)
            for (Index j = 0; j < s.J && (i < first || i >= stop); ++j)
                sum += load(weight.data + i * weight.row + j * weight.column);
        store(outside, sum * pad);
    }
    rows += (y + first - s.I / 2 - band.first) * pitch * width;
    for (Index lane = 0; lane < count; lane += 2) {
        const Weights<Real> of_lane{weight.data + first * weight.row + lane, weight.row, weight.column};
        for (Index c = 0; c < width; c += most_channels * lanes) {
            const auto sum = [&](auto channels) {
                aggregate_two<Real, decltype(channels)::value>(out + lane * width + c, width, of_lane,
                                                               rows + lane * width + c, pitch, stop - first, s.J,
                                                               outside[lane], outside[lane + 1]);
            };
            switch (std::min<Index>(most_channels, (width - c) / lanes)) {
                case 1: sum(std::integral_constant<int, 1>{}); break;
                case 2: sum(std::integral_constant<int, 2>{}); break;
                case 3: sum(std::integral_constant<int, 3>{}); break;
                default: sum(std::integral_constant<int, 4>{});
            }
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

// Scratch memory of a thread. Channels and window entries are filled up to whole vectors.
template <typename Real>
struct Memory {
    static constexpr int lanes = Lanes<Real>::count;
    Index width, pitch, filled_entries, entry_size, lane_size;
    Scratch<Real> row, rows, columns, lane_rows, lane_columns, entries, more_entries, entry_rows;

    Memory(const Sizes& s, Real pad)
        : width(whole_vectors<Real>(s.D)),
          pitch(padded_width<Real>(s)),
          filled_entries(whole_vectors<Real>(s.entries())),
          entry_size(filled_entries * lanes),
          lane_size(width * lanes),
          row(pitch * width, pad),
          rows(reach_height(s) * pitch * width, pad),
          columns(reach_height(s) * pitch * width),
          lane_rows((lanes + 1) * width),
          lane_columns(2 * lane_size),
          entries(2 * entry_size),
          more_entries(2 * entry_size),
          entry_rows(entry_size) {}

    // The reach of a band as [row][position][channel].
    template <typename Stored>
    void take_rows(const Stored* frame, Index stride_y, Index stride_x, const Sizes& s, const Band& band) {
        for (Index y = 0; y < band.reach; ++y)
            copy_row(rows.get() + y * pitch * width, width, frame + (band.first + y) * stride_y, stride_x, s, Real{1});
    }

    // The same as [row][channel][position].
    template <typename Stored>
    void take_columns(const Stored* frame, Index stride_y, Index stride_x, const Sizes& s, const Band& band) {
        for (Index y = 0; y < band.reach; ++y) {
            copy_row(row.get(), width, frame + (band.first + y) * stride_y, stride_x, s, Real{1});
            transpose(columns.get() + y * pitch * width, pitch, row.get(), width, pitch, width);
        }
    }

    // count positions of a map, side by side in a row, as [channel][lane]; `added`, if given, is added to them.
    template <typename Stored>
    void take_lanes(Index number, const Stored* from, Index stride_x, Index count, Index D, Real factor,
                    const Stored* added = nullptr) {
        Real* to = lane_rows.get();
        for (Index lane = 0; lane < count; ++lane, to += width) {
            for (Index d = 0; d < D; ++d) to[d] = widen(from[lane * stride_x + d]) * factor;
            if (added)
                for (Index d = 0; d < D; ++d) to[d] += widen(added[lane * stride_x + d]) * factor;
        }
        transpose(lane_columns.get() + number * lane_size, lanes, lane_rows.get(), width, lanes, width);
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
};

// count positions of lane_rows, [lane][channel], to a row of a map.
template <typename Stored, typename Real>
void give_lanes(Stored* to, Index stride_x, const Real* lane_rows, Index width, Index count, Index D, Real factor) {
    for (Index lane = 0; lane < count; ++lane)
        for (Index d = 0; d < D; ++d) narrow(lane_rows[lane * width + d] * factor, to[lane * stride_x + d]);
}

// Context of every query and, if affinity.data is given, the raw affinities.
template <typename Stored, typename Real>
void forward(const Sizes& s, Map<const Stored> q, Map<const Stored> k, Map<const Stored> v, const Real* rpb,
             Map<Stored> context, Map<Real> affinity, Real pad, const Team& team) {
    constexpr int lanes = Lanes<Real>::count;
    const Index height = band_height(s), bands = band_count(s), P = s.entries();
    const Real scale = 1 / std::sqrt(static_cast<Real>(s.D));

    team.run(s.B * s.N * s.pairs() * bands, [&] {
        return [&, m = std::make_shared<Memory<Real>>(s, pad)](Index unit) {
            const Place at(unit, s, bands);
            const Band band(s, at.band, height);
            const Real* bias = rpb + at.head * P;

            m->take_columns(k.frame(at.batch, at.head, at.key_frame), k.y, k.x, s, band);
            m->take_rows(v.frame(at.batch, at.head, at.key_frame), v.y, v.x, s, band);

            for (Index top = band.top; top < band.top + band.rows; top += 2)
                for (Index x = 0; x < s.W; x += lanes) {
                    const Index count = std::min<Index>(lanes, s.W - x);
                    const Index rows = std::min<Index>(2, band.top + band.rows - top);
                    for (Index row = 0; row < rows; ++row)
                        m->take_lanes(row, q.at(at.batch, at.head, at.pair, top + row, x), q.x, count, s.D, scale);
                    correlate(m->entries.get(), m->entry_size, m->lane_columns.get(), m->lane_size, rows,
                              m->columns.get() + x, m->width, m->pitch, top, s, band, pad);
                    for (Index row = 0; row < rows; ++row) {
                        const Index y = top + row;
                        Real* entries = m->entries.get() + row * m->entry_size;
                        for (Index p = 0; p < P; ++p) store(entries + p * lanes, load(entries + p * lanes) + bias[p]);
                        if (affinity.data)
                            for (Index copy = 0; copy < at.copies; ++copy)
                                m->give_entries(affinity.at(at.batch, at.head, at.pair + copy, y, x), affinity.x,
                                                entries, count, P);
                        softmax(entries, P);
                        aggregate(m->lane_rows.get(), Weights<Real>{entries, s.J * lanes, lanes},
                                  m->rows.get() + x * m->width, m->width, m->pitch, count, y, s, band, pad);
                        for (Index copy = 0; copy < at.copies; ++copy)
                            give_lanes(context.at(at.batch, at.head, at.pair + copy, y, x), context.x,
                                       m->lane_rows.get(), m->width, count, s.D, Real{1});
                    }
                }
        };
    });
}

// Planes of weights, one for each window entry: [B, N, pairs, P, H, columns], with margins of zeros at the sides.
template <typename Real>
struct Planes {
    Index columns, plane, frame;

    explicit Planes(const Sizes& s)
        : columns(whole_vectors<Real>(s.W) + s.J - 1), plane(s.H * columns), frame(s.entries() * plane) {}

    // The lanes from x on of a row of every plane; lanes from count on are zeros.
    void put(Real* to, Real* entries, Index y, Index x, Index count, const Sizes& s) const {
        constexpr int lanes = Lanes<Real>::count;
        for (Index p = 0; p < s.entries(); ++p) {
            Real* line = to + p * plane + y * columns;
            if (count < lanes) std::fill(entries + p * lanes + count, entries + (p + 1) * lanes, Real{0});
            store(line + s.J / 2 + x, load(entries + p * lanes));
            if (x == 0) std::fill(line, line + s.J / 2, Real{0});
            if (x + lanes >= s.W) std::fill(line + s.J / 2 + x + lanes, line + columns, Real{0});
        }
    }

    // The weights of the positions x and on of row y in the windows of others, as `aggregate` wants them: position
    // (y + i - I / 2, x + j - J / 2) sees (y, x) as its entry P - 1 - (i * J + j).
    Weights<Real> seen_from(const Real* of_frame, Index y, Index x, const Sizes& s) const {
        return {of_frame + (s.entries() - 1) * plane + (y - s.I / 2) * columns + x, columns - s.J * plane, 1 - plane};
    }
};

// Gradients of the queries, and for each query the weights and the gradients of its raw affinities, which the
// gradients of keys and values are made of, as `Planes`. grad_bias: [B, N, pairs, bands, P].
template <typename Stored, typename Real>
void backward_queries(const Sizes& s, Map<const Stored> k, Map<const Stored> v, Map<const Real> affinity,
                      Map<const Stored> grad_context, Map<const Real> grad_affinity, Map<Stored> grad_q,
                      Real* weights, Real* grad_raw, Real* grad_bias, Real pad, const Team& team) {
    constexpr int lanes = Lanes<Real>::count;
    const Index height = band_height(s), bands = band_count(s), P = s.entries();
    const Real scale = 1 / std::sqrt(static_cast<Real>(s.D));
    const Planes<Real> planes(s);

    struct WithBias : Memory<Real> {
        Scratch<Real> weight, bias;
        WithBias(const Sizes& s, Real pad) : Memory<Real>(s, pad), weight(this->entry_size), bias(this->entry_size) {}
    };
    team.run(s.B * s.N * s.pairs() * bands, [&] {
        return [&, m = std::make_shared<WithBias>(s, pad)](Index unit) {
            const Place at(unit, s, bands);
            const Band band(s, at.band, height);
            const Index frame = unit / bands * planes.frame;
            Real* weight = m->weight.get();
            Real* more = m->more_entries.get();
            Real* bias = m->bias.get();
            std::fill_n(bias, P * lanes, Real{0});

            m->take_columns(v.frame(at.batch, at.head, at.key_frame), v.y, v.x, s, band);
            m->take_rows(k.frame(at.batch, at.head, at.key_frame), k.y, k.x, s, band);

            for (Index top = band.top; top < band.top + band.rows; top += 2)
                for (Index x = 0; x < s.W; x += lanes) {
                    const Index count = std::min<Index>(lanes, s.W - x);
                    const Index rows = std::min<Index>(2, band.top + band.rows - top);
                    for (Index row = 0; row < rows; ++row) {
                        const Stored* from = grad_context.at(at.batch, at.head, at.pair, top + row, x);
                        const Stored* repeated = at.copies == 2 ? from + grad_context.t : nullptr;
                        m->take_lanes(row, from, grad_context.x, count, s.D, Real{1}, repeated);
                    }
                    correlate(m->entries.get(), m->entry_size, m->lane_columns.get(), m->lane_size, rows,
                              m->columns.get() + x, m->width, m->pitch, top, s, band, pad);
                    for (Index row = 0; row < rows; ++row) {
                        const Index y = top + row;
                        Real* grad = m->entries.get() + row * m->entry_size;
                        m->take_entries(weight, affinity.at(at.batch, at.head, at.pair, y, x), affinity.x, count, P);
                        softmax(weight, P);

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

                        planes.put(weights + frame, weight, y, x, count, s);
                        planes.put(grad_raw + frame, grad, y, x, count, s);
                        for (Index p = 0; p < P; ++p)
                            store(bias + p * lanes, load(bias + p * lanes) + load(grad + p * lanes));
                        aggregate(m->lane_rows.get(), Weights<Real>{grad, s.J * lanes, lanes},
                                  m->rows.get() + x * m->width, m->width, m->pitch, count, y, s, band, pad);
                        give_lanes(grad_q.at(at.batch, at.head, at.pair, y, x), grad_q.x, m->lane_rows.get(), m->width,
                                   count, s.D, scale);
                    }
                }
            for (Index p = 0; p < P; ++p) {
                grad_bias[unit * P + p] = 0;
                for (Index lane = 0; lane < lanes; ++lane) grad_bias[unit * P + p] += bias[p * lanes + lane];
            }
        };
    });
}

// Gradients of the keys and values, from the queries whose windows hold them: weighted sums over a window, again.
template <typename Stored, typename Real>
void backward_keys(const Sizes& s, Map<const Stored> q, Map<const Stored> grad_context, const Real* weights,
                   const Real* grad_raw, Map<Stored> grad_k, Map<Stored> grad_v, const Team& team) {
    constexpr int lanes = Lanes<Real>::count;
    const Index height = band_height(s), bands = band_count(s);
    const Index width = whole_vectors<Real>(s.D), pitch = padded_width<Real>(s);
    const Real scale = 1 / std::sqrt(static_cast<Real>(s.D));
    const Planes<Real> planes(s);

    struct Rows {
        Scratch<Real> queries, grads, lane_rows;
        Rows(Index size, Index lanes_size) : queries(size), grads(size), lane_rows(lanes_size) {}
    };
    team.run(s.B * s.N * s.pairs() * bands, [&] {
        return [&, m = std::make_shared<Rows>(reach_height(s) * pitch * width, (lanes + 1) * width)](Index unit) {
            const Place at(unit, s, bands);
            const Band band(s, at.band, height);
            const Index frame = unit / bands * planes.frame;
            for (Index row = 0; row < band.reach; ++row) {
                const Stored* query = q.at(at.batch, at.head, at.pair, band.first + row, 0);
                const Stored* grad = grad_context.at(at.batch, at.head, at.pair, band.first + row, 0);
                const Stored* repeated = at.copies == 2 ? grad + grad_context.t : nullptr;
                copy_row(m->queries.get() + row * pitch * width, width, query, q.x, s, scale);
                copy_row(m->grads.get() + row * pitch * width, width, grad, grad_context.x, s, Real{1}, repeated);
            }
            const auto gather = [&](Map<Stored> grad, const Real* of_frame, const Real* rows, Index y, Index x) {
                const Index count = std::min<Index>(lanes, s.W - x);
                aggregate(m->lane_rows.get(), planes.seen_from(of_frame, y, x, s), rows + x * width, width, pitch,
                          count, y, s, band, Real{0});
                give_lanes(grad.at(at.batch, at.head, at.key_frame, y, x), grad.x, m->lane_rows.get(), width, count,
                           s.D, Real{1});
            };
            for (Index y = band.top; y < band.top + band.rows; ++y)
                for (Index x = 0; x < s.W; x += lanes) {
                    gather(grad_k, grad_raw + frame, m->queries.get(), y, x);
                    gather(grad_v, weights + frame, m->grads.get(), y, x);
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

// Number of bands, of which each has a partial sum of the bias gradient.
extern "C" Index emim_bands(const Index* sizes) {
    return band_count(*reinterpret_cast<const Sizes*>(sizes));
}

// Elements of the planes of weights of one frame pair and head, which backward takes as work space twice.
extern "C" Index emim_planes(const Index* sizes, Index element_bytes) {
    const Sizes& s = *reinterpret_cast<const Sizes*>(sizes);
    return element_bytes == sizeof(double) ? Planes<double>(s).frame : Planes<float>(s).frame;
}

extern "C" Index emim_vector_bytes() { return vector_bytes; }
