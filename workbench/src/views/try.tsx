// Try a text: which features fire on which tokens, how well each is reconstructed, and in how many bits.
import { useMemo, useState } from "preact/hooks";
import { link, remember } from "../address";
import { get, post, type Encoder, type FeatureList, type Texts, type Token } from "../api";
import { strength } from "../colours";
import { Shown, useLoaded } from "../loaded";
import { shown } from "../numbers";
import { About, useEncoder } from "../parts/about";
import { visible } from "../parts/context";
import { Download } from "../parts/download";
import { quantile } from "../numbers";
import { STRENGTH } from "../steering";

const EXAMPLE = "The capital of France is Paris, and the Seine runs through it.";
const TOP = 20;
const IN_ADDRESS = 2000;
const COLOURS = { burstiness: "strongest feature", bits: "bits of the code", error: "reconstruction error" };

export function TryView({ id, query }: { id: string; query: URLSearchParams }) {
  const encoder = useEncoder(id);
  return (
    <>
      <h1>Try a text</h1>
      <Shown of={encoder} what="the encoder">
        {(found) => (
          <>
            <About encoder={found} at="try" />
            {found.origin ? <TryText id={id} encoder={found} query={query} /> : <NoModel />}
          </>
        )}
      </Shown>
    </>
  );
}

export const NoModel = () => <p role="alert">The files of this encoder do not name its language model, so no text can be tried on it.</p>;

function TryText({ id, encoder, query }: { id: string; encoder: Encoder; query: URLSearchParams }) {
  const [text, setText] = useState(query.get("text") ?? EXAMPLE);
  const [asked, setAsked] = useState(query.get("text") ?? "");
  const answer = useLoaded<Texts | undefined>(
    async (signal) =>
      asked ? post<Texts>(`encoders/${encodeURIComponent(id)}/texts/encode?fit=true&top_k=${Math.min(TOP, encoder.n_features ?? TOP)}`, { texts: [asked] }, signal) : undefined,
    [id, asked],
  );
  const colour = query.get("colour") ?? "burstiness";
  const kept = (of: string) => (of.length <= IN_ADDRESS ? of : undefined);
  const show = (changed: Record<string, string | undefined>) => remember(["encoder", id, "try"], { text: kept(asked), colour, ...changed });
  return (
    <>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          setAsked(text);
          show({ text: kept(text) });
        }}
      >
        <label class="wide">
          Text
          <textarea rows={3} value={text} required onInput={(event) => setText(event.currentTarget.value)} />
        </label>
        <button>Show its features</button>
      </form>
      {encoder.origin?.position !== "all" && (
        <p class="note">
          The encoder was trained at position {shown(encoder.origin?.position)} of texts. It was not trained on other tokens:
          do not trust its numbers there.
        </p>
      )}
      {encoder.binary && (
        <p class="note">
          The magnitude of a feature is its burstiness: near 0 where its bit is a surprise, given how often the feature fires; far
          below 0 where it is not.
        </p>
      )}
      {asked && (
        <Shown of={answer} what="the tokens; the language model may be starting">
          {(found) => (found ? <Tokens encoder={encoder} text={asked} tokens={found.texts[0]!.tokens} colour={colour} show={(name) => show({ colour: name })} /> : null)}
        </Shown>
      )}
    </>
  );
}

interface Tried {
  encoder: Encoder;
  text: string;
  tokens: Token[];
  colour: string;
  show: (colour: string) => void;
}

function Tokens({ encoder, text, tokens, colour, show }: Tried) {
  const { id, origin } = encoder;
  const trained = typeof origin?.position === "number" ? origin.position : undefined;
  const [at, setAt] = useState(Math.max(0, Math.min(trained ?? tokens.length, tokens.length - 1)));
  const fires = useFires(encoder);
  const names = useLoaded(
    (signal) => get<FeatureList>(`encoders/${encodeURIComponent(id)}/features?sort=score&limit=1000`, signal),
    [id],
  );
  const explained = useMemo(
    () => new Map((names.value?.features ?? []).flatMap(({ index, explanation }) => (explanation ? [[index, explanation] as const] : []))),
    [names.value],
  );
  const values = useMemo(() => tokens.map((token) => valueOf(token, colour, fires)), [tokens, colour, fires]);
  const known = values.filter((value): value is number => value !== undefined).sort((a, b) => a - b);
  // The first token of a text is often far from all others; its colour must not hide theirs.
  const low = quantile(known, 0), high = quantile(known, 0.95);
  const feature = colour.startsWith("feature:") ? colour.slice(8) : "";
  const chosen = tokens[Math.min(at, tokens.length - 1)];
  if (!chosen) return <p role="status">The text has no tokens.</p>;
  return (
    <>
      <div class="controls">
        <label>
          Colour by{" "}
          <select value={colour} onChange={(event) => show(event.currentTarget.value)}>
            {Object.entries(COLOURS).map(([name, label]) => <option value={name}>{label}</option>)}
            {feature && <option value={colour}>feature {feature}</option>}
          </select>
        </label>
        <span>{tokens.length} tokens</span>
        <Download name={`tokens-${id}`} rows={() => rows(tokens)} json={() => tokens} />
      </div>
      <div class="tokens" role="group" aria-label="Tokens">
        {tokens.map((token, i) => {
          const value = values[i];
          const part = value === undefined ? 0 : high <= low ? 1 : (value - low) / (high - low);
          const said = `${visible(token.text)}: ${value === undefined ? (feature ? absent(token, Number(feature)) : "unknown") : shown(value)}`;
          return (
            <button type="button" class={i === trained ? "trained" : undefined} aria-pressed={i === at} aria-label={said} title={said} style={strength(part)} onClick={() => setAt(i)}>
              {visible(token.text)}
            </button>
          );
        })}
      </div>
      <h2>
        Position {at}: <code>{visible(chosen.text)}</code>
        {at === trained && " (where the encoder was trained)"}
      </h2>
      <p>
        Reconstruction error {shown(chosen.error, 3)} (0 is exact, 1 is no better than the mean). Its code takes {shown(chosen.bits, 1)} bits by the
        features' firing rates.
      </p>
      <div class="scroll" tabIndex={0} role="region" aria-label="Features of the token">
        <table>
          <thead>
            <tr>{["Feature", "Is", "Magnitude", "Explanation", ""].map((name) => <th scope="col" class={name === "Explanation" ? "words" : undefined}>{name}</th>)}</tr>
          </thead>
          <tbody>
            {onFirst(chosen.features, fires).map(({ index, magnitude }) => (
              <tr key={index}>
                <th scope="row"><a href={link(["encoder", id, "feature", index])}>{index}</a></th>
                <td>{{ true: "on", false: "off" }[String(fires(index, magnitude))] ?? "–"}</td>
                <td>{shown(magnitude, 3)}</td>
                <td class="words">{explained.get(index) ?? "not named"}</td>
                <td>
                  <button type="button" onClick={() => show(`feature:${index}`)}>colour by it</button>{" "}
                  <a href={link(["encoder", id, "steer"], { f: `${index}:add:${STRENGTH}`, text })}>steer</a>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

type Fires = (index: number, magnitude: number) => boolean | undefined;

/** Whether a feature is on where it has this magnitude; undefined where both of its states are as surprising. */
function useFires({ id, binary, n_features, d_latent }: Encoder): Fires {
  const isCode = binary && n_features === d_latent; // else a magnitude is a number of its own, 0 where it is off
  const list = useLoaded(
    async (signal) => (isCode ? get<FeatureList>(`encoders/${encodeURIComponent(id)}/features?sort=rate&limit=1000`, signal) : undefined),
    [id, isCode],
  ).value;
  return useMemo(() => {
    const mostlyOn = new Set((list?.features ?? []).filter((row) => (row.firing_rate ?? 0) > 0.5).map(({ index }) => index));
    // The rarer of its two states is a surprise of more than one bit: its magnitude, log2 |code - rate|, is above -1.
    return (index, magnitude) => {
      if (!isCode) return magnitude > 0 || (magnitude === 0 ? false : undefined); // below 0: standardised, or kept as it is
      if (!list || Math.abs(magnitude + 1) < 1e-3) return undefined;
      return (magnitude > -1) !== mostlyOn.has(index);
    };
  }, [list, isCode]);
}

/** Of a feature by which a token is not coloured. */
const absent = (token: Token, feature: number): string => (token.features.some(({ index }) => index === feature) ? "off" : "not among its strongest");

const onFirst = (features: Token["features"], fires: Fires): Token["features"] => {
  const isOff = ({ index, magnitude }: Token["features"][number]) => fires(index, magnitude) === false;
  return [...features.filter((one) => !isOff(one)), ...features.filter(isOff)];
};

function valueOf(token: Token, colour: string, fires: Fires): number | undefined {
  if (colour === "bits") return token.bits ?? undefined;
  if (colour === "error") return token.error ?? undefined;
  if (colour.startsWith("feature:")) {
    const found = token.features.find(({ index }) => String(index) === colour.slice(8));
    return found && fires(found.index, found.magnitude) === false ? undefined : found?.magnitude;
  }
  return token.features[0]?.magnitude;
}

const rows = (tokens: Token[]): object[] =>
  tokens.flatMap(({ text, start, end, error, bits, features }, token) =>
    features.map(({ index, magnitude }) => ({ token, text, start, end, error, bits, feature: index, magnitude })),
  );
