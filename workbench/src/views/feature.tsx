// A feature: its name, what the score is worth, the tokens on which it is strongest, and its shape.
import { useMemo } from "preact/hooks";
import { link } from "../address";
import { get, type Feature } from "../api";
import { Shown, useLoaded } from "../loaded";
import { share, shown } from "../numbers";
import { About, useEncoder } from "../parts/about";
import { Chart, type Series } from "../parts/chart";
import { TokensInContext, type Context } from "../parts/context";
import { Download } from "../parts/download";
import { Trust } from "../parts/trust";
import { STRENGTH } from "../steering";

const BINS = 24;

interface Details {
  status: string;
  explanation: string;
  score: number | null;
  chance: number | null;
  n: number;
  problems: number;
  count: number;
  error: string;
  tokens: Context[];
  quantiles?: Context[];
  sample?: (number | null)[];
  promoted?: string[];
  suppressed?: string[];
}

export function FeatureView({ id, index }: { id: string; index: number }) {
  const encoder = useEncoder(id);
  const feature = useLoaded(
    (signal) => get<Feature>(`encoders/${encodeURIComponent(id)}/features/${index}`, signal),
    [id, index],
  );
  const next = (other: number, label: string) => <a href={link(["encoder", id, "feature", other])}>{label}</a>;
  return (
    <>
      <h1>Feature {index}</h1>
      <Shown of={encoder} what="the encoder">{(found) => <About encoder={found} at="features" />}</Shown>
      <p>
        {index > 0 && next(index - 1, "← previous")}{" "}
        {encoder.value?.n_features && index + 1 < encoder.value.n_features ? next(index + 1, "next →") : ""}
      </p>
      <Shown of={feature} what="the feature">{(found) => <Card id={id} feature={found} />}</Shown>
    </>
  );
}

function Card({ id, feature }: { id: string; feature: Feature }) {
  const details = feature.details as unknown as Details | null | undefined;
  const indices = feature.similar_indices as number[];
  const cosines = feature.similar_cosines as number[];
  const on = `${feature.index}:add:${STRENGTH}`;
  return (
    <>
      <p>
        {feature.firing_rate === 0 ? "It fires on none of the samples. " : `Fires on ${share(feature.firing_rate)} of the samples. `}
        {feature.firing_rate !== 0 && <a href={link(["encoder", id, "steer"], { f: on })}>Turn it up and see what the model writes</a>}{" "}
        <Download name={`feature-${id}-${feature.index}`} rows={() => (details?.tokens ?? []).map(({ pieces, values, at }) => ({ text: pieces.join(""), token: pieces[at], magnitude: values[at] }))} json={() => feature} />
      </p>
      {details ? <Named details={details} /> : <NotNamed id={id} what="this feature" />}
      {details && <Trust judge={feature.judge} />}
      <h2>Features with a similar direction</h2>
      <ul class="inline">
        {indices.map((other, i) => (
          <li>
            <a href={link(["encoder", id, "feature", other])}>{other}</a> (cosine {shown(cosines[i], 2)})
          </li>
        ))}
      </ul>
    </>
  );
}

/** What a judge would add, and how. Its port is another than that of this service. */
export const NotNamed = ({ id, what }: { id: string; what: string }) => (
  <p>
    ComSem, which asks a language model as a judge, has not named {what}: a name, its score, and the tokens on which a feature is
    strongest come from <code>bae-ray judge serve --port 8001</code> (once <code>make judge</code> has installed it) and{" "}
    <code>bae-ray comsem --autoencoders RUNS/{id} --out runs/comsem --judge-url http://localhost:8001/v1 --judge-model smollm2-135m --publish</code>; RUNS is the
    folder that --registry names.
  </p>
);

function Named({ details }: { details: Details }) {
  const contexts = [...details.tokens, ...(details.quantiles ?? [])];
  const values = contexts.flatMap((one) => one.values.filter((value): value is number => value !== null));
  const least = Math.min(...values), most = Math.max(...values);
  const series = useMemo(() => shape(details.sample ?? []), [details]);
  return (
    <>
      <h2 class="words">{details.explanation || `No name (${details.status})`}</h2>
      {details.error && <p class="warning">{details.error}</p>}
      <p>
        Score {shown(details.score, 2)} on {details.n} tests, where the same name scores {shown(details.chance, 2)} on another
        feature's tokens{details.problems ? `; ${details.problems} answers could not be read` : ""}. Active on {details.count} tokens.
      </p>
      <h2>Where it is strongest</h2>
      {details.tokens.map((context) => <TokensInContext context={context} least={least} most={most} />)}
      {details.quantiles && details.quantiles.length > 0 && (
        <details>
          <summary>From weak to strong</summary>
          {details.quantiles.map((context) => <TokensInContext context={context} least={least} most={most} />)}
        </details>
      )}
      {series.length > 0 && <Chart title="Its shape: how strong it is where it is active" x="Magnitude" y="Tokens" series={series} />}
      <Words label="Words that it makes likelier" words={details.promoted} />
      <Words label="Words that it makes less likely" words={details.suppressed} />
    </>
  );
}

function Words({ label, words }: { label: string; words?: string[] }) {
  if (!words?.length) return null;
  return (
    <p class="words">
      {label}: {words.map((word, i) => <><code>{word}</code>{i + 1 < words.length ? " " : ""}</>)}
    </p>
  );
}

function shape(sample: (number | null)[]): Series[] {
  const values = sample.filter((value): value is number => value !== null);
  if (values.length < 2) return [];
  const low = Math.min(...values), width = (Math.max(...values) - low) / BINS || 1;
  const counts = new Array<number>(BINS).fill(0);
  for (const value of values) counts[Math.min(BINS - 1, Math.floor((value - low) / width))]! += 1;
  return [{ label: "tokens", kind: "bars", x: counts.map((_, i) => low + (i + 0.5) * width), y: counts }];
}
