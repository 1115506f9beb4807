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
          {(found) => (found ? <Tokens id={id} tokens={found.texts[0]!.tokens} colour={colour} show={(name) => show({ colour: name })} /> : null)}
        </Shown>
      )}
    </>
  );
}

function Tokens({ id, tokens, colour, show }: { id: string; tokens: Token[]; colour: string; show: (colour: string) => void }) {
  const [at, setAt] = useState(Math.max(0, tokens.length - 1));
  const names = useLoaded(
    (signal) => get<FeatureList>(`encoders/${encodeURIComponent(id)}/features?sort=score&limit=1000`, signal),
    [id],
  );
  const explained = useMemo(
    () => new Map((names.value?.features ?? []).flatMap(({ index, explanation }) => (explanation ? [[index, explanation] as const] : []))),
    [names.value],
  );
  const values = useMemo(() => tokens.map((token) => valueOf(token, colour)), [tokens, colour]);
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
          const part = value === undefined || high <= low ? 0 : (value - low) / (high - low);
          const said = `${visible(token.text)}: ${value === undefined ? "not among its strongest" : shown(value)}`;
          return (
            <button type="button" aria-pressed={i === at} aria-label={said} title={said} style={strength(part)} onClick={() => setAt(i)}>
              {visible(token.text)}
            </button>
          );
        })}
      </div>
      <h2>
        Token {at + 1}: <code>{visible(chosen.text)}</code>
      </h2>
      <p>
        Reconstruction error {shown(chosen.error, 3)} (0 is exact, 1 is no better than the mean). Its code takes {shown(chosen.bits, 1)} bits by the
        features' firing rates.
      </p>
      <div class="scroll" tabIndex={0} role="region" aria-label="Features of the token">
        <table>
          <thead>
            <tr>{["Feature", "Magnitude", "Explanation", ""].map((name) => <th scope="col" class={name === "Explanation" ? "words" : undefined}>{name}</th>)}</tr>
          </thead>
          <tbody>
            {chosen.features.map(({ index, magnitude }) => (
              <tr key={index}>
                <th scope="row"><a href={link(["encoder", id, "feature", index])}>{index}</a></th>
                <td>{shown(magnitude, 3)}</td>
                <td class="words">{explained.get(index) ?? "not named"}</td>
                <td>
                  <button type="button" onClick={() => show(`feature:${index}`)}>colour by it</button>{" "}
                  <a href={link(["encoder", id, "steer"], { f: `${index}:add:8` })}>steer</a>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

function valueOf(token: Token, colour: string): number | undefined {
  if (colour === "bits") return token.bits ?? undefined;
  if (colour === "error") return token.error ?? undefined;
  if (colour.startsWith("feature:")) return token.features.find(({ index }) => String(index) === colour.slice(8))?.magnitude;
  return token.features[0]?.magnitude;
}

const rows = (tokens: Token[]): object[] =>
  tokens.flatMap(({ text, start, end, error, bits, features }, token) =>
    features.map(({ index, magnitude }) => ({ token, text, start, end, error, bits, feature: index, magnitude })),
  );
