// Curves, points and bars, drawn by uPlot; the numbers behind them can be downloaded beside it.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { useTheme } from "../theme";

export interface Series {
  label: string;
  x: number[];
  y: (number | null)[];
  kind?: "line" | "points" | "bars";
  muted?: boolean;
}

interface ChartProps {
  title: string;
  x: string;
  y: string;
  series: Series[];
  logX?: boolean;
  logY?: boolean;
}

export function Chart({ title, x, y, series, logX, logY }: ChartProps) {
  const place = useRef<HTMLDivElement>(null);
  const theme = useTheme();
  useEffect(() => {
    const box = place.current!;
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim();
    const grid = style.getPropertyValue("--line").trim();
    const axis = (label: string, log?: boolean) => ({
      label, stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid }, labelSize: 22, labelGap: 0,
      ...(log ? { values: (_: uPlot, values: (number | null)[]) => values.map((value) => (value === null ? "" : plain(value))) } : {}),
    });
    const made = new uPlot(
      {
        width: box.clientWidth, height: 260,
        legend: { show: series.length > 1 && series.length <= 12 },
        cursor: { drag: { setScale: false } },
        scales: {
          x: { time: false, distr: logX ? 3 : 1, range: padded(series.flatMap((one) => one.x), logX) },
          y: { distr: logY ? 3 : 1 },
        },
        axes: [axis(x, logX), { ...axis(y, logY), size: 62 }],
        series: [{ label: x }, ...series.map((one, i) => drawn(one, i, style))],
      },
      joined(series),
      box,
    );
    const observer = new ResizeObserver(() => made.setSize({ width: box.clientWidth, height: 260 }));
    observer.observe(box);
    return () => {
      observer.disconnect();
      made.destroy();
    };
  }, [title, series, logX, logY, theme]);
  return (
    <figure class="chart">
      <figcaption>{title}</figcaption>
      <div ref={place} role="img" aria-label={`${title}: ${y} against ${x}, ${series.length} series`} />
    </figure>
  );
}

function drawn(one: Series, i: number, style: CSSStyleDeclaration): uPlot.Series {
  const colour = one.muted ? style.getPropertyValue("--muted").trim() : `hsl(${(i * 137.5 + 210) % 360} 65% 50%)`;
  const points = one.kind === "points";
  return {
    label: one.label, stroke: colour, width: 2, value: (_, value) => (value === null ? "–" : plain(value)),
    points: { show: points, size: one.muted ? 5 : 8, fill: colour },
    spanGaps: !points,
    ...(points ? { paths: () => null } : {}),
    ...(one.kind === "bars" ? { paths: uPlot.paths.bars!({ size: [0.9, 60] }), fill: colour, width: 0 } : {}),
  };
}

/** The series on one axis, as uPlot takes them. */
function joined(series: Series[]): uPlot.AlignedData {
  const tables = series.map((one) => {
    const order = one.x.map((_, i) => i).sort((a, b) => one.x[a]! - one.x[b]!);
    return [order.map((i) => one.x[i]!), order.map((i) => one.y[i] ?? null)] as uPlot.AlignedData;
  });
  return tables.length ? spread(tables) : [[], []];
}

/** As uPlot.join, but several points of a series may have one x. */
function spread(tables: uPlot.AlignedData[]): uPlot.AlignedData {
  const rows = tables.flatMap(([xs, ys], table) => Array.from(xs, (at, i) => ({ at, table, value: ys![i] ?? null })));
  rows.sort((a, b) => a.at - b.at);
  const columns: (number | null)[][] = tables.map(() => []);
  const xs: number[] = [];
  for (const { at, table, value } of rows) {
    const free = xs.length && xs.at(-1) === at && columns[table]![xs.length - 1] === null;
    if (!free) {
      xs.push(at);
      columns.forEach((column) => column.push(null));
    }
    columns[table]![xs.length - 1] = value;
  }
  return [xs, ...columns];
}

function padded(values: number[], log?: boolean): uPlot.Range.MinMax {
  const low = Math.min(...values), high = Math.max(...values);
  if (!values.length) return [0, 1];
  if (log) return [low / 1.2, high * 1.2];
  const room = (high - low || Math.abs(high) || 1) * 0.03;
  return [low - room, high + room];
}

const plain = (value: number): string => String(Number(value.toPrecision(3)));
