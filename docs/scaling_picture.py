"""Measure how a pool grows and shrinks, and draw it: python docs/scaling_picture.py docs/scaling.svg. Eight seconds."""

import sys
import time
from pathlib import Path
from typing import NamedTuple

from crew_executor import CrewExecutor

BURSTS = ((0.3, 60), (2.5, 10), (4.7, 3))
"""When they come, in seconds, and of how many tasks."""
TASK_SECONDS = 0.15
END = 7.0
EVERY = 0.02

WIDTH, HEIGHT = 760, 360
LEFT, RIGHT, TOP, GAP, BOTTOM = 70, 20, 30, 40, 50


class Sample(NamedTuple):
    """What was there at a moment."""

    seconds: float
    tasks: int
    workers: int


def measure() -> list[Sample]:
    """Run the bursts, and look at the pool all the while."""
    samples = []
    bursts = list(BURSTS)
    with CrewExecutor(8, idle_timeout=0.5, name="picture") as executor:
        begin = time.monotonic()
        while (seconds := time.monotonic() - begin) < END:
            if bursts and seconds >= bursts[0][0]:
                for _ in range(bursts.pop(0)[1]):
                    executor.submit(time.sleep, TASK_SECONDS)
            stats = executor.stats()
            workers = sum(worker.state in {"idle", "busy"} for worker in stats.workers)
            samples.append(Sample(seconds, stats.queued + stats.running, workers))
            time.sleep(EVERY)
    return samples


def steps(points: list[tuple[float, int]], top: float, height: float, most: int) -> str:
    """Return the path of a curve that changes in steps."""
    wide = WIDTH - LEFT - RIGHT

    def place(seconds: float, number: int) -> str:
        return f"{LEFT + wide * seconds / END:.1f} {top + height * (1 - number / most):.1f}"

    path = [f"M {place(0, 0)}"]
    last = 0
    for seconds, number in points:
        if number != last:
            path += [f"L {place(seconds, last)}", f"L {place(seconds, number)}"]
            last = number
    return " ".join([*path, f"L {place(END, last)}"])


def panel(words: str, name: str, points: list[tuple[float, int]], top: float, height: float, ticks: list[int]) -> str:
    """Return one of the two diagrams."""
    most = ticks[-1]
    lines = [f'<text class="name" x="{LEFT}" y="{top - 8:.0f}">{words}</text>']
    for tick in ticks:
        y = top + height * (1 - tick / most)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text class="tick" text-anchor="end" x="{LEFT - 8}" y="{y + 4:.1f}">{tick}</text>')
    curve = steps(points, top, height, most)
    base = f"{top + height:.1f}"
    lines.append(f'<path class="{name} area" d="{curve} L {WIDTH - RIGHT} {base} L {LEFT} {base} Z"/>')
    lines.append(f'<path class="{name} curve" d="{curve}"/>')
    return "\n".join(lines)


def draw(samples: list[Sample]) -> str:
    """Return the picture."""
    height = (HEIGHT - TOP - GAP - BOTTOM) / 2
    tasks = panel("open tasks", "tasks", [(s.seconds, s.tasks) for s in samples], TOP, height, [0, 20, 40, 60])
    second = TOP + height + GAP
    workers = panel("workers", "workers", [(s.seconds, s.workers) for s in samples], second, height, [0, 4, 8])
    wide = WIDTH - LEFT - RIGHT
    axis = "\n".join(
        f'<text class="tick" text-anchor="middle" x="{LEFT + wide * s / END:.1f}" y="{HEIGHT - 28}">{s} s</text>'
        for s in range(int(END) + 1)
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t d">
<title id="t">A pool that grows and shrinks</title>
<desc id="d">Two curves over seven seconds. Above, open tasks: three bursts of 60, 10 and 3, each of which is
worked off. Below, workers: they come when a burst does, at most 8 of them, and leave half a second after there is
nothing to do.</desc>
<style>
.background {{ fill: #ffffff }}
text {{ font: 13px system-ui, sans-serif; fill: #444444 }}
.name {{ font-weight: 600 }}
.grid {{ stroke: #dddddd }}
.curve {{ fill: none; stroke-width: 2 }}
.area {{ stroke: none; opacity: 0.15 }}
.tasks.curve {{ stroke: #b45309 }} .tasks.area {{ fill: #b45309 }}
.workers.curve {{ stroke: #1d4ed8 }} .workers.area {{ fill: #1d4ed8 }}
</style>
<rect class="background" width="{WIDTH}" height="{HEIGHT}" rx="6"/>
{tasks}
{workers}
{axis}
</svg>
"""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(measure()), "utf-8")
