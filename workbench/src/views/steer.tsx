// Steer: features up, held or off while the model writes, beside what it writes without.
import { useEffect, useRef, useState } from "preact/hooks";
import { remember } from "../address";
import { ApiError, hasKey, stream, type Encoder, type Steered } from "../api";
import { Failed, Shown } from "../loaded";
import { About, useEncoder } from "../parts/about";
import { Download } from "../parts/download";
import { EditRows } from "../parts/edits";
import { asCurl, asPython, bodyOf, read, STRENGTH, written, type Edit, type Settings } from "../steering";
import { NoModel } from "./try";

const EXAMPLE = "The capital of France is";

export function SteerView({ id, query }: { id: string; query: URLSearchParams }) {
  const encoder = useEncoder(id);
  return (
    <>
      <h1>Steer the model</h1>
      <Shown of={encoder} what="the encoder">
        {(found) => (
          <>
            <About encoder={found} at="steer" />
            {found.origin ? <Steer id={id} encoder={found} query={query} /> : <NoModel />}
          </>
        )}
      </Shown>
    </>
  );
}

function settingsOf(query: URLSearchParams, most: number): Settings {
  const number = (name: string, otherwise: number) => (query.has(name) && Number.isFinite(Number(query.get(name))) ? Number(query.get(name)) : otherwise);
  const edits = query.getAll("f").map(read).filter((edit): edit is Edit => edit !== undefined);
  return {
    text: query.get("text") ?? EXAMPLE,
    edits: edits.length ? edits : [{ feature: 0, how: "add", strength: STRENGTH }],
    tokens: query.get("tokens") === "last" ? "last" : "all",
    max_new_tokens: Math.min(most, number("new", 32)), temperature: number("temperature", 0), seed: number("seed", 0),
  };
}

interface Texts {
  steered: string;
  plain: string;
}

function Steer({ id, encoder, query }: { id: string; encoder: Encoder; query: URLSearchParams }) {
  const [settings, setSettings] = useState(() => settingsOf(query, encoder.limits.max_new_tokens));
  const [texts, setTexts] = useState<Texts>();
  const [answer, setAnswer] = useState<Steered>();
  const [error, setError] = useState<ApiError>();
  const running = useRef<AbortController | undefined>(undefined);
  const [isRunning, setRunning] = useState(false);
  useEffect(() => () => running.current?.abort(), []);
  const change = (changed: Partial<Settings>) => setSettings((before) => ({ ...before, ...changed }));

  async function run() {
    running.current?.abort();
    const own = (running.current = new AbortController());
    const { text, edits, tokens, max_new_tokens, temperature, seed } = settings;
    remember(["encoder", id, "steer"], { text: text.length <= 2000 ? text : undefined, f: edits.map(written), tokens, new: max_new_tokens, temperature, seed });
    const said: Texts = { steered: "", plain: "" };
    setTexts({ ...said });
    setAnswer(undefined);
    setError(undefined);
    setRunning(true);
    try {
      for await (const { event, data } of stream(`encoders/${encodeURIComponent(id)}/texts/steer`, bodyOf(settings), own.signal)) {
        if (event === "end") setAnswer(data);
        else {
          said[data.side] += data.text;
          setTexts({ ...said });
        }
      }
    } catch (failure) {
      if (!own.signal.aborted) setError(failure instanceof ApiError ? failure : new ApiError(0, "page", String(failure)));
    } finally {
      if (running.current === own) setRunning(false);
    }
  }

  return (
    <>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void run();
        }}
      >
        <label class="wide">
          Text to go on from
          <textarea rows={2} value={settings.text} required onInput={(event) => change({ text: event.currentTarget.value })} />
        </label>
        <EditRows encoder={encoder} edits={settings.edits} onChange={(edits) => change({ edits })} />
        <Options settings={settings} most={encoder.limits.max_new_tokens} change={change} />
        <button disabled={!settings.edits.length}>Write</button>{" "}
        {isRunning && <button type="button" onClick={() => running.current?.abort()}>Stop</button>}
      </form>
      {error && <Failed error={error} again={() => void run()} />}
      {texts && (
        <div class="sides" aria-busy={isRunning}>
          <Side title="With the features changed" start={settings.text} text={answer?.steered.text ?? texts.steered} />
          <Side title="Unchanged" start={settings.text} text={answer?.plain.text ?? texts.plain} />
        </div>
      )}
      <p role="status">{isRunning ? "Writing … loading the model first may take some seconds." : answer ? `Both are written${settings.temperature ? ", with the same random numbers" : ""}.` : ""}</p>
      {answer && <Download name={`steered-${id}`} rows={() => [{ side: "steered", ...answer.steered }, { side: "plain", ...answer.plain }]} json={() => ({ ...bodyOf(settings), ...answer })} />}
      <h2>The same request in a terminal or a program</h2>
      <Copied label="curl" text={asCurl(id, settings, hasKey())} />
      <Copied label="Python" text={asPython(id, settings, hasKey())} />
    </>
  );
}

function Options({ settings, most, change }: { settings: Settings; most: number; change: (changed: Partial<Settings>) => void }) {
  const field = (label: string, name: "max_new_tokens" | "temperature" | "seed", low: number, high: number, step: number) => (
    <label>
      {label}{" "}
      <input type="number" required min={low} max={high} step={step} value={settings[name]} onInput={(event) => change({ [name]: event.currentTarget.valueAsNumber })} />
    </label>
  );
  return (
    <div class="controls">
      <label>
        Changed at{" "}
        <select value={settings.tokens} onChange={(event) => change({ tokens: event.currentTarget.value as "last" | "all" })}>
          <option value="all">all tokens</option>
          <option value="last">the last token and what follows</option>
        </select>
      </label>
      {field("New tokens", "max_new_tokens", 1, most, 1)}
      {field("Temperature", "temperature", 0, 10, 0.1)}
      {field("Seed", "seed", 0, 2 ** 53 - 1, 1)}
    </div>
  );
}

function Side({ title, start, text }: { title: string; start: string; text: string }) {
  return (
    <section>
      <h2>{title}</h2>
      <p class="written">
        <span class="given">{start}</span>
        {text}
      </p>
    </section>
  );
}

function Copied({ label, text }: { label: string; text: string }) {
  const [done, setDone] = useState(false);
  return (
    <details>
      <summary>{label}</summary>
      <pre tabIndex={0}>{text}</pre>
      <button type="button" onClick={() => navigator.clipboard.writeText(text).then(() => setDone(true), () => setDone(false))}>
        {done ? "Copied" : `Copy as ${label}`}
      </button>
    </details>
  );
}
