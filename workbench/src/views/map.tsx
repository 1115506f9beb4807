// A sweep's map: any measure by layer and token position, with marks of what to be careful with.
import { useMemo } from "preact/hooks";
import { link, remember } from "../address";
import { get, type Matched } from "../api";
import { Shown, useLoaded } from "../loaded";
import { mean, shown } from "../numbers";
import { Caveats } from "../parts/caveats";
import { Download } from "../parts/download";
import { Heat, type Cell } from "../parts/heat";
import { loadSweep, variant, type Runs } from "../sweep";
import { inOrder, number, rowsOf, text, type Row } from "../table";

const MATCHED = "matched";

export function MapView({ query }: { query: URLSearchParams }) {
  const sweep = useLoaded(loadSweep, []);
  return (
    <>
      <h1>Layers and token positions</h1>
      <Shown of={sweep} what="the sweep">
        {(runs) => (runs.runs ? <SweepMap runs={runs} query={query} /> : <NoRuns />)}
      </Shown>
    </>
  );
}

function NoRuns() {
  return (
    <p>
      There are no runs of a sweep in the registry. <a href={link(["encoders"])}>Its encoders</a> can be looked at one by one.
    </p>
  );
}

function SweepMap({ runs, query }: { runs: Runs; query: URLSearchParams }) {
  const fvu = query.get("fvu") ?? "";
  const finished = useMemo(() => runs.rows.filter((row) => row.status === "finished"), [runs]);
  const aside = fvu ? ["training.entropy_weight"] : [];
  const variants = useMemo(
    () => inOrder(finished.map((row) => variant(row, runs.settings, aside))),
    [runs, fvu],
  );
  const measure = runs.measures.find(({ name }) => name === query.get("measure")) ?? runs.measures[0];
  const asked = query.get("runs") ?? "";
  const chosen = variants.includes(asked) ? asked : (variants[0] ?? "");
  const show = (changed: Record<string, string>) =>
    remember([], { measure: query.get("measure") ?? undefined, runs: query.get("runs") ?? undefined, fvu, ...changed });
  const matched = useLoaded<Row[] | undefined>(
    async (signal) => (fvu ? rowsOf((await get<Matched>(`sweep/matched?fvu=${fvu}`, signal)).columns) : undefined),
    [fvu],
  );
  const rows = useMemo(
    () => finished.filter((row) => variant(row, runs.settings, aside) === chosen),
    [finished, chosen, fvu],
  );
  const cells = useMemo((): Cell[] => {
    if (fvu) {
      const own = (matched.value ?? []).filter((row) => variant(row, runs.settings, aside) === chosen);
      return own.map((row) => matchedCell(row));
    }
    return measure ? measured(rows, measure.name, measure.decimals, measure.label.includes("bits")) : [];
  }, [rows, measure, matched.value, fvu]);
  const failed = runs.rows.filter((row) => row.status !== "finished");
  // One entropy weight gives one point of bits against FVU, from which no other is read.
  const isMatched = useMemo(() => new Set(finished.map((row) => row["training.entropy_weight"])).size > 1, [finished]);
  const label = fvu ? `Entropy at held-out FVU ${fvu} / bits` : (measure?.label ?? "");
  return (
    <>
      <form class="controls" onSubmit={(event) => event.preventDefault()}>
        <label>
          Measure{" "}
          <select disabled={Boolean(fvu)} value={measure?.name} onChange={(event) => show({ measure: event.currentTarget.value })}>
            {runs.measures.map(({ name, label }) => <option value={name}>{label}</option>)}
          </select>
        </label>
        {variants.length > 1 && (
          <label>
            Runs with{" "}
            <select value={chosen} onChange={(event) => show({ runs: event.currentTarget.value })}>
              {variants.map((name) => <option value={name}>{name || "all runs"}</option>)}
            </select>
          </label>
        )}
        {(isMatched || fvu) && (
          <label>
            At held-out FVU{" "}
            <input
              type="number" min="0.01" max="10" step="0.01" size={6} value={fvu} placeholder="any"
              onChange={(event) => show({ fvu: event.currentTarget.value })}
            />
          </label>
        )}
        <Download name={`map-${fvu ? MATCHED : measure?.name}`} rows={() => cells.map(({ marks, shown: _, ...cell }) => ({ ...cell, marks }))} />
      </form>
      <p class="note">
        Choose a cell to see its runs. Layer 0 is the embeddings; positions of tokens count from 0. FVU is the fraction of variance
        unexplained: what the code leaves out. Below bits stands the FVU on training / held-out texts. Compare bits between cells
        only at similar FVU{isMatched ? ": type an FVU above to read all cells at it." : ". A sweep with several entropy weights can be read at one FVU."}
      </p>
      <Shown of={fvu ? matched : { value: [], again: () => undefined }} what="bits at this FVU">
        {() => <Heat label={label} cells={cells} reversed={!fvu && (measure?.name.includes("fvu") ?? false)} />}
      </Shown>
      <Caveats runs={runs} rows={rows} />
      <p>
        {finished.length} runs are finished{failed.length ? `, ${failed.length} are not` : ""}.{" "}
        <Download name="runs" rows={() => runs.rows} />
      </p>
      {failed.length > 0 && (
        <details>
          <summary>The {failed.length} runs that are not</summary>
          <ul>
            {failed.slice(0, 200).map((row) => (
              <li>
                Layer {shown(row.layer)}, position {shown(row.position)}, {text(row, "run") || "no run"}: {text(row, "status")}.{" "}
                {text(row, "reason")}
              </li>
            ))}
          </ul>
          {failed.length > 200 && <p>These are the first 200. The files above have all.</p>}
        </details>
      )}
    </>
  );
}

/** The means over the runs of each cell. */
function measured(rows: Row[], name: string, decimals: number, isBits: boolean): Cell[] {
  const found = new Map<string, { layer: string; position: string; values: number[]; fvu: Record<string, number[]>; marks: Set<string> }>();
  for (const row of rows) {
    const key = `${row.layer} ${row.position}`;
    const cell = found.get(key) ?? { layer: text(row, "layer"), position: text(row, "position"), values: [], fvu: { fvu_train: [], fvu_val: [] }, marks: new Set() };
    const value = number(row, name);
    if (value !== undefined) cell.values.push(value);
    for (const column in cell.fvu) cell.fvu[column]!.push(number(row, column) ?? NaN);
    for (const mark of text(row, "marks")) cell.marks.add(mark);
    found.set(key, cell);
  }
  return [...found.values()].map(({ layer, position, values, fvu, marks }) => {
    const value = mean(values);
    const beside = isBits ? `${shown(mean(fvu.fvu_train!), 2)} / ${shown(mean(fvu.fvu_val!), 2)}` : undefined;
    return { layer, position, value, beside, runs: values.length, marks: [...marks].join(""), shown: shown(value, decimals) };
  });
}

function matchedCell(row: Row): Cell {
  const value = number(row, "bits");
  const note = text(row, "reason");
  return {
    layer: text(row, "layer"), position: text(row, "position"), value, runs: Number(row.seeds ?? 0),
    marks: row.converged === false ? "*" : "", shown: shown(value, 0), note,
  };
}
