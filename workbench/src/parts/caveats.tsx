// What to be careful with: the marks of runs, and what each means.
import { text, type Row } from "../table";
import type { Runs } from "../sweep";

export function Caveats({ runs, rows }: { runs: Runs; rows: Row[] }) {
  const counted = runs.caveats
    .map(({ mark, said }) => ({ mark, said, n: rows.filter((row) => text(row, "marks").includes(mark)).length }))
    .filter(({ n }) => n);
  if (!counted.length) return null;
  return (
    <ul class="caveats">
      {counted.map(({ mark, said, n }) => (
        <li>
          <strong>{mark}</strong> {rows.length > 1 ? `${n} of ${rows.length} runs: ` : ""}
          {said}.
        </li>
      ))}
    </ul>
  );
}
