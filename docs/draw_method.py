"""Draw docs/assets/method.svg, the figure of docs/method.md: `python docs/draw_method.py`."""

from __future__ import annotations

from pathlib import Path

OUTPUT = Path(__file__).parent / "assets" / "method.svg"

INK, SOFT, QUERY, KEY, APPEARANCE, MOTION = "#1f2933", "#8793a0", "#d9480f", "#1864ab", "#2b8a3e", "#862e9c"
CELL = 17
GRID_W, GRID_H = 11, 9
WINDOW = 5
QUERY_AT = (5, 4)  # column, row
OBJECT = {(4, 3), (5, 3), (6, 3), (4, 4), (5, 4), (6, 4), (4, 5), (5, 5), (6, 5)}
MOVED = (1, -1)

parts: list[str] = []


def add(text: str) -> None:
    parts.append(text)


def text(
    x: float, y: float, words: str, *, size: int = 14, colour: str = INK, anchor: str = "middle", **style: str
) -> None:
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    add(f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{more}>{words}</text>')


def grid(x: float, y: float, things: set[tuple[int, int]], window: bool) -> None:
    column, row = QUERY_AT
    for r in range(GRID_H):
        for c in range(GRID_W):
            inside = window and abs(c - column) <= WINDOW // 2 and abs(r - row) <= WINDOW // 2
            fill = "#ffd8a8" if (c, r) in things else ("#d0ebff" if inside else "#f4f6f8")
            add(
                f'<rect x="{x + c * CELL:g}" y="{y + r * CELL:g}" width="{CELL}" height="{CELL}" fill="{fill}" '
                f'stroke="#cbd2d9" stroke-width="1"/>'
            )
    if window:
        half = WINDOW // 2
        add(
            f'<rect x="{x + (column - half) * CELL:g}" y="{y + (row - half) * CELL:g}" width="{WINDOW * CELL}" '
            f'height="{WINDOW * CELL}" fill="none" stroke="{KEY}" stroke-width="2.5"/>'
        )
    dash = ' stroke-dasharray="3 2"' if window else ""
    add(
        f'<rect x="{x + column * CELL:g}" y="{y + row * CELL:g}" width="{CELL}" height="{CELL}" fill="none" '
        f'stroke="{QUERY}" stroke-width="2.5"{dash}/>'
    )


def box(x: float, y: float, width: float, height: float, words: list[str], colour: str) -> None:
    add(
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" fill="#ffffff" stroke="{colour}" '
        f'stroke-width="1.8"/>'
    )
    for number, line in enumerate(words):
        text(x + width / 2, y + height / 2 + 5 + (number - (len(words) - 1) / 2) * 18, line, colour=colour)


def arrow(points: list[tuple[float, float]], colour: str = INK) -> None:
    path = " ".join(f"{'M' if number == 0 else 'L'}{x:g} {y:g}" for number, (x, y) in enumerate(points))
    name = {INK: "ink", APPEARANCE: "green", MOTION: "violet", KEY: "blue", QUERY: "red"}[colour]
    add(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8" marker-end="url(#{name})"/>')


def main() -> None:
    width, height = 970, 410
    add(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\">"
    )
    add("<title>EMIM: one affinity, used twice</title>")
    add("<defs>")
    for name, colour in (("ink", INK), ("green", APPEARANCE), ("violet", MOTION), ("blue", KEY), ("red", QUERY)):
        add(
            f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{colour}"/></marker>'
        )
    add("</defs>")
    add(f'<rect width="{width}" height="{height}" fill="#ffffff"/>')

    x, top, low = 24, 34, 240
    text(x + GRID_W * CELL / 2, top - 12, "frame t")
    grid(x, top, OBJECT, window=False)
    text(x + GRID_W * CELL / 2, low - 12, "frame t + 1")
    grid(x, low, {(c + MOVED[0], r + MOVED[1]) for c, r in OBJECT}, window=True)

    # Query and keys to the affinity.
    column, row = QUERY_AT
    qx, qy = x + (column + 1) * CELL, top + (row + 0.5) * CELL
    kx, ky = x + (column + WINDOW // 2 + 1) * CELL, low + (row + 0.5) * CELL
    middle = 200
    ax = 318
    arrow([(qx, qy), (262, qy), (262, middle - 16), (ax - 8, middle - 16)], QUERY)
    text(250, qy - 8, "query q", colour=QUERY, size=13)
    arrow([(kx, ky), (262, ky), (262, middle + 16), (ax - 8, middle + 16)], KEY)
    text(252, ky + 20, "keys k of the window", colour=KEY, size=13, anchor="start")

    # The affinity as a row of entries, the strongest where the object went.
    side = 20
    ay = middle - WINDOW * side / 2
    best = (WINDOW // 2 + MOVED[0], WINDOW // 2 + MOVED[1])
    for i in range(WINDOW):
        for j in range(WINDOW):
            distance = ((j - best[0]) ** 2 + (i - best[1]) ** 2) ** 0.5
            shade = round(245 - 205 * max(0.0, 1 - distance / 2.2))
            add(
                f'<rect x="{ax + j * side}" y="{ay + i * side:g}" width="{side}" height="{side}" '
                f'fill="rgb({shade},{shade},{min(255, shade + 12)})" stroke="#9aa5b1" stroke-width="1"/>'
            )
    text(ax + WINDOW * side / 2, ay - 30, "affinity A", size=15, font_weight="600")
    text(ax + WINDOW * side / 2, ay - 12, "one entry per displacement", size=12, colour=SOFT)
    text(ax + WINDOW * side / 2, ay + WINDOW * side + 18, "q · k + bias", size=13)

    # Two ways.
    out = ax + WINDOW * side
    up, down = 92, 308
    arrow([(out + 4, middle - 14), (out + 48, middle - 14), (out + 48, up), (out + 76, up)], APPEARANCE)
    arrow([(out + 4, middle + 14), (out + 48, middle + 14), (out + 48, down), (out + 76, down)], MOTION)
    bx = out + 78
    box(bx, up - 26, 96, 52, ["softmax"], APPEARANCE)
    arrow([(bx + 96, up), (bx + 124, up)], APPEARANCE)
    box(bx + 126, up - 26, 136, 52, ["weighted sum", "of values v"], APPEARANCE)
    text(bx + 131, up - 40, "appearance: aggregate what is there", colour=APPEARANCE, size=13)
    box(bx, down - 26, 262, 52, ["MLP on the raw entries", "P → 4P → D, QuickGELU"], MOTION)
    text(bx + 131, down + 46, "motion: where it went", colour=MOTION, size=13)

    sx = bx + 262 + 70
    add(f'<circle cx="{sx}" cy="{middle}" r="17" fill="#ffffff" stroke="{INK}" stroke-width="1.8"/>')
    text(sx, middle + 7, "+", size=22)
    arrow([(bx + 262, up), (sx, up), (sx, middle - 19)], APPEARANCE)
    arrow([(bx + 262, down), (sx, down), (sx, middle + 19)], MOTION)
    arrow([(sx + 17, middle), (sx + 44, middle)])
    for number, words in enumerate(("heads", "joined,", "projected")):
        text(sx + 52, middle - 12 + 17 * number, words, size=13, anchor="start")
    add("</svg>")
    OUTPUT.write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
