"""What the benchmark prints: a table of medians, and a plot for each row."""
import json
from dataclasses import dataclass
from html import escape
from statistics import median


@dataclass(frozen=True)
class Measure:
    """One figure of a row: a ratio unless it has a unit."""

    name: str
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def goal(self):
        if self.at_most is not None:
            return f"≤ {self.at_most:g}{self.unit and ' ' + self.unit}"
        return f"≥ {self.at_least:g}{self.unit and ' ' + self.unit}" if self.at_least is not None else ""

    def met(self, value):
        if self.at_most is not None:
            return value <= self.at_most
        return self.at_least is None or value >= self.at_least

    def text(self, value):
        return f"{value:.3g}{self.unit and ' ' + self.unit}" if abs(value) < 1000 else f"{value:.0f}{self.unit and ' ' + self.unit}"


def table(results):
    """The lines of the table, in Markdown."""
    lines = ["| row | measure | median | all rounds | goal | |", "|---|---|---|---|---|---|"]
    for row, values in results:
        for measure in row.MEASURES:
            found = values[measure.name]
            if not found:
                lines.append(f"| {row.NAME} | {measure.name} | no result | | {measure.goal} | |")
                continue
            middle = median(found)
            verdict = "" if not measure.goal else "met" if measure.met(middle) else "missed"
            spread = f"{measure.text(min(found))} to {measure.text(max(found))} ({len(found)})"
            lines.append(f"| {row.NAME} | {measure.name} | {measure.text(middle)} | {spread} | {measure.goal} | {verdict} |")
    return lines


def plot(row, values):
    """An SVG picture: for each measure a bar to its median, a line over all rounds, and a mark at its goal."""
    shown = [(measure, values[measure.name]) for measure in row.MEASURES if values[measure.name]]
    height, left, width = 28, 260, 640
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height * len(shown) + 30}" '
           'font-family="sans-serif" font-size="12">', f'<text x="8" y="18" font-weight="bold">{escape(row.NAME)}</text>']
    for index, (measure, found) in enumerate(shown):
        y, goal = 30 + index * height, measure.at_most if measure.at_most is not None else measure.at_least
        scale = (width - left - 90) / (max([*found, goal or 0]) or 1)
        middle = median(found)
        out += [f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(measure.name)}</text>',
                f'<rect x="{left}" y="{y + 3}" width="{middle * scale:.1f}" height="14" fill="#7aa6c2"/>',
                f'<path d="M{left + min(found) * scale:.1f} {y + 10}H{left + max(found) * scale:.1f}" stroke="#234"/>',
                f'<text x="{left + max(found) * scale + 6:.1f}" y="{y + 14}">{escape(measure.text(middle))}</text>']
        if goal:
            out.append(f'<path d="M{left + goal * scale:.1f} {y}v20" stroke="#c33" stroke-dasharray="3 2"/>')
    return "\n".join([*out, "</svg>", ""])


def write_report(results, directory):
    """Writes table, values and plots to a directory."""
    lines = table(results)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "table.md").write_text("\n".join(lines) + "\n")
    (directory / "results.json").write_text(json.dumps({row.NAME: values for row, values in results}, indent=1) + "\n")
    for row, values in results:
        (directory / f"{row.NAME}.svg").write_text(plot(row, values))
