// An encoder's features: searched, in the order of score, firing rate or bits.
import { useState } from "preact/hooks";
import { link, remember } from "../address";
import { get, type FeatureList, type FeatureRow } from "../api";
import { Shown, useLoaded } from "../loaded";
import { share, shown } from "../numbers";
import { About, useEncoder } from "../parts/about";
import { Download } from "../parts/download";
import { Rates } from "../parts/rates";
import { Trust } from "../parts/trust";
import { NotNamed } from "./feature";

const PAGE = 100;
const ORDERS = { index: "number", score: "score", rate: "firing rate", bits: "bits" };

export function EncoderView({ id, query }: { id: string; query: URLSearchParams }) {
  const encoder = useEncoder(id);
  const search = query.get("search") ?? "";
  const sort = query.get("sort") ?? "rate";
  const skip = Number(query.get("skip") ?? 0) || 0;
  const [words, setWords] = useState(search);
  const asked = new URLSearchParams({ search, sort, skip: String(skip), limit: String(PAGE) });
  const list = useLoaded(
    (signal) => get<FeatureList>(`encoders/${encodeURIComponent(id)}/features?${asked}`, signal),
    [id, search, sort, skip],
  );
  const show = (changed: Record<string, string | number>) => remember(["encoder", id], { search, sort, ...changed });
  return (
    <>
      <h1>Encoder {id}</h1>
      <Shown of={encoder} what="the encoder">{(found) => <About encoder={found} at="features" />}</Shown>
      <form
        class="controls" role="search"
        onSubmit={(event) => {
          event.preventDefault();
          show({ search: words });
        }}
      >
        <label>
          Words or number{" "}
          <input type="search" maxLength={200} value={words} onInput={(event) => setWords(event.currentTarget.value)} />
        </label>
        <button>Search</button>
        <label>
          Largest{" "}
          <select value={sort} onChange={(event) => show({ sort: event.currentTarget.value })}>
            {Object.entries(ORDERS).map(([name, label]) => <option value={name}>{label}</option>)}
          </select>{" "}
          first
        </label>
      </form>
      <Shown of={list} what="its features">
        {(found) => (
          <>
            <p role="status">
              {search ? `${found.found} of ${found.n_features} features match` : `${found.n_features} features`}
              {found.found > PAGE ? `, ${skip + 1} to ${Math.min(found.found, skip + PAGE)} are shown` : ""}.{" "}
              <Download name={`features-${id}`} rows={() => found.features ?? []} />
            </p>
            {!found.judge && <NotNamed id={id} what="this encoder's features" />}
            <Features id={id} rows={found.features} />
            <p>
              {skip > 0 && <button type="button" onClick={() => show({ skip: Math.max(0, skip - PAGE) })}>Previous</button>}{" "}
              {skip + PAGE < found.found && <button type="button" onClick={() => show({ skip: skip + PAGE })}>Next</button>}
            </p>
            <Trust judge={found.judge} summary={found.summary} />
            <Rates list={found} />
          </>
        )}
      </Shown>
    </>
  );
}

function Features({ id, rows }: { id: string; rows: FeatureRow[] }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Features">
      <table>
        <thead>
          <tr>
            {["Feature", "Explanation", "Score", "Chance", "Fires on", "Bits"].map((name) => <th scope="col" class={name === "Explanation" ? "words" : undefined}>{name}</th>)}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.index}>
              <th scope="row"><a href={link(["encoder", id, "feature", row.index])}>{row.index}</a></th>
              <td class="words">{row.explanation || (row.status ? `none (${row.status})` : "not named")}</td>
              <td>{shown(row.score, 2)}</td>
              <td>{shown(row.chance, 2)}</td>
              <td>{share(row.firing_rate)}</td>
              <td>{shown(row.bits, 3)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
