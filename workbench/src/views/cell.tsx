// A cell of the map: its runs, how they were trained, where they lie on bits against FVU, and how often features fire.
import { useMemo, useState } from "preact/hooks";
import { link } from "../address";
import { get, type FeatureList, type Run } from "../api";
import { Shown, useLoaded } from "../loaded";
import { shown } from "../numbers";
import { Caveats } from "../parts/caveats";
import { Chart, type Series } from "../parts/chart";
import { Download } from "../parts/download";
import { Rates } from "../parts/rates";
import { isOf, loadSweep, variant, type Runs } from "../sweep";
import { number, text, type Row } from "../table";

const MOST_CURVES = 8;
const TERMS = { loss: "Loss", reconstruction: "Reconstruction", entropy: "Entropy of a batch / bits" };
const SHOWN = ["entropy_bits", "tree_bits", "heldout_bits", "fvu_train", "fvu_val", "l0", "dead", "ce_recovered"];

export function CellView({ layer, position }: { layer: string; position: string }) {
  const sweep = useLoaded(loadSweep, []);
  return (
    <>
      <h1>
        Layer {layer}, position {position}
      </h1>
      <Shown of={sweep} what="the sweep">
        {(runs) => <CellRuns key={`${layer} ${position}`} runs={runs} layer={layer} position={position} />}
      </Shown>
    </>
  );
}

function CellRuns({ runs, layer, position }: { runs: Runs; layer: string; position: string }) {
  const own = useMemo(() => runs.rows.filter((row) => isOf(row, layer, position)), [runs]);
  const finished = own.filter((row) => row.status === "finished");
  const name = (row: Row) => [variant(row, runs.settings), `seed ${shown(row.seed)}`].filter(Boolean).join(", ");
  if (!own.length)
    return (
      <p role="alert">
        The sweep has no run of this cell. <a href={link([])}>To the map</a>
      </p>
    );
  return (
    <>
      <RunTable runs={runs} own={own} name={name} />
      {finished.length > 0 && (
        <div class="charts">
          <Plane runs={runs} own={finished} />
          <Curves own={finished.slice(0, MOST_CURVES)} name={name} />
          <RunRates own={finished} name={name} />
        </div>
      )}
      {finished.length > MOST_CURVES && <p>Curves are of the first {MOST_CURVES} runs.</p>}
    </>
  );
}

function RunTable({ runs, own, name }: { runs: Runs; own: Row[]; name: (row: Row) => string }) {
  const measures = runs.measures.filter((one) => SHOWN.includes(one.name));
  return (
    <>
      <div class="scroll" tabIndex={0} role="region" aria-label="Runs">
        <table>
          <thead>
            <tr>
              <th scope="col">Run</th>
              <th scope="col">Marks</th>
              <th scope="col" class="words">Settings</th>
              {measures.map(({ label }) => <th scope="col">{label}</th>)}
            </tr>
          </thead>
          <tbody>
            {own.map((row) => (
              <tr>
                <th scope="row">
                  {row.status === "finished" ? <a href={link(["encoder", text(row, "run")])}>{text(row, "run")}</a> : text(row, "run")}
                </th>
                <td>{text(row, "marks")}</td>
                <td class="words">{row.status === "finished" ? name(row) : `${text(row, "status")}: ${text(row, "reason")}`}</td>
                {measures.map(({ name: column, decimals }) => <td>{shown(row[column], Math.max(decimals, column.includes("fvu") ? 3 : 1))}</td>)}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <Caveats runs={runs} rows={own} />
      <p>
        <Download name="cell" rows={() => own} /> The paper's bits (entropy) are a sum over latents; tree bits count once what
        two latents say together. Both are upper bounds on what the code says.
      </p>
    </>
  );
}

function Plane({ runs, own }: { runs: Runs; own: Row[] }) {
  const series = useMemo((): Series[] => {
    const points = (rows: Row[], label: string, muted: boolean): Series => {
      const known = rows.filter((row) => number(row, "fvu_val") !== undefined && number(row, "entropy_bits") !== undefined);
      return {
        label, muted, kind: "points", x: known.map((row) => number(row, "fvu_val")!), y: known.map((row) => number(row, "entropy_bits")!),
      };
    };
    const others = runs.rows.filter((row) => row.status === "finished" && !own.includes(row));
    return [points(others, "other cells", true), points(own, "this cell", false)];
  }, [runs, own[0]]);
  return <Chart title="Rate and distortion: the paper's bits against what the code leaves unexplained" x="FVU on held-out texts" y="Bits" series={series} />;
}

function Curves({ own, name }: { own: Row[]; name: (row: Row) => string }) {
  const ids = own.map((row) => text(row, "run"));
  const loaded = useLoaded(
    (signal) => Promise.all(ids.map((id) => get<Run>(`encoders/${encodeURIComponent(id)}/run`, signal))),
    ids,
  );
  return (
    <Shown of={loaded} what="training curves">
      {(found) => (
        <>
          {Object.entries(TERMS).map(([term, label]) => (
            <Term term={term} label={label} found={found} names={own.map(name)} />
          ))}
          <p>
            Curves: <Download name="curves" rows={() => found.flatMap((run) => points(run))} />
          </p>
        </>
      )}
    </Shown>
  );
}

function Term({ term, label, found, names }: { term: string; label: string; found: Run[]; names: string[] }) {
  const series = useMemo(
    () =>
      found.flatMap(({ curves }, i): Series[] =>
        curves[term] ? [{ label: names[i]!, x: curves.epoch!, y: curves[term]! }] : [],
      ),
    [found, term],
  );
  if (!series.length) return null;
  const positive = series.every(({ y }) => y.every((value) => value !== null && value > 0));
  return <Chart title={`Training: ${label}`} x="Epoch" y={label} series={series} logY={term !== "entropy" && positive} />;
}

function points({ encoder, curves }: Run): object[] {
  const names = Object.keys(curves);
  return (curves.epoch ?? []).map((_, i) => ({
    run: encoder, ...Object.fromEntries(names.map((name) => [name, curves[name]![i]])),
  }));
}

function RunRates({ own, name }: { own: Row[]; name: (row: Row) => string }) {
  const [run, setRun] = useState(text(own[0]!, "run"));
  const loaded = useLoaded(
    (signal) => get<FeatureList>(`encoders/${encodeURIComponent(run)}/features?limit=1`, signal),
    [run],
  );
  return (
    <div>
      {own.length > 1 && (
        <label>
          Firing rates of{" "}
          <select value={run} onChange={(event) => setRun(event.currentTarget.value)}>
            {own.map((row) => <option value={text(row, "run")}>{name(row)}</option>)}
          </select>
        </label>
      )}
      <Shown of={loaded} what="firing rates">{(list) => <Rates list={list} />}</Shown>
    </div>
  );
}
