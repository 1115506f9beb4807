// A heat map as a table: keyboard and screen reader go through it cell by cell.
import { link } from "../address";
import { onScale } from "../colours";
import { quantile, shown } from "../numbers";
import { inOrder } from "../table";

const FEW = 20;
/** From so many cells on, colours leave a twentieth at each end to the ends: one extreme cell would hide all others. */
const TAIL = 0.05;

export interface Cell {
  layer: string;
  position: string;
  value?: number;
  shown: string;
  marks: string;
  runs: number;
  /** Beside the value: of bits, the FVU that they leave. */
  beside?: string;
  note?: string;
}

export function Heat({ label, cells, reversed }: { label: string; cells: Cell[]; reversed: boolean }) {
  const sorted = cells.flatMap(({ value }) => (value === undefined ? [] : [value])).sort((a, b) => a - b);
  const tail = sorted.length > FEW ? TAIL : 0;
  const low = quantile(sorted, tail), high = quantile(sorted, 1 - tail);
  const layers = inOrder(cells.map(({ layer }) => layer));
  const positions = inOrder(cells.map(({ position }) => position));
  const at = new Map(cells.map((cell) => [`${cell.layer} ${cell.position}`, cell]));
  const colour = (value: number) => {
    const part = high > low ? (value - low) / (high - low) : 0.5;
    return onScale(reversed ? 1 - part : part);
  };
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={label}>
      <table class="heat">
        <caption>
          {label}
          {sorted.length > 0 && (
            <span class="scale" aria-hidden="true">
              {[0, 0.25, 0.5, 0.75, 1].map((part) => (
                <span style={colour(low + part * (high - low))}>
                  {tail && part === 0 ? "≤ " : tail && part === 1 ? "≥ " : ""}
                  {shown(low + part * (high - low))}
                </span>
              ))}
            </span>
          )}
        </caption>
        <thead>
          <tr>
            <th scope="col">Layer \ position</th>
            {positions.map((position) => <th scope="col">{position}</th>)}
          </tr>
        </thead>
        <tbody>
          {layers.map((layer) => (
            <tr>
              <th scope="row">{layer}</th>
              {positions.map((position) => {
                const cell = at.get(`${layer} ${position}`);
                if (!cell) return <td />;
                const look = cell.value === undefined ? {} : colour(cell.value);
                const beside = cell.beside ? `, FVU ${cell.beside}` : "";
                const said = `Layer ${layer}, position ${position}: ${cell.shown} ${cell.marks}${beside} ${cell.note ?? ""}`;
                return (
                  <td>
                    <a href={link(["cell", layer, position])} style={look} title={cell.note} aria-label={said}>
                      {cell.shown}
                      {cell.marks}
                      {cell.beside && <small>{cell.beside}</small>}
                    </a>
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
