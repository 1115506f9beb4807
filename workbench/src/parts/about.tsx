// What an encoder is, at the head of each of its views.
import { link } from "../address";
import { get, type Encoder } from "../api";
import { useLoaded, type Loaded } from "../loaded";
import { shown } from "../numbers";
import { Caveats } from "./caveats";
import { loadSweep } from "../sweep";

export const useEncoder = (id: string): Loaded<Encoder> =>
  useLoaded((signal) => get<Encoder>(`encoders/${encodeURIComponent(id)}`, signal), [id]);

export function About({ encoder, at }: { encoder: Encoder; at: "features" | "try" | "steer" }) {
  const { id, origin, measures = {} } = encoder;
  const sweep = useLoaded(loadSweep, []).value;
  const own = sweep?.rows.filter((row) => row.run === id) ?? [];
  const tab = (name: typeof at, label: string, part?: string) => (
    <a href={link(["encoder", id, ...(part ? [part] : [])])} aria-current={at === name ? "page" : undefined}>{label}</a>
  );
  return (
    <>
      <p>
        {encoder.architecture} of {shown(encoder.d_in)} numbers to {shown(encoder.d_latent)} latents
        {origin ? (
          <>
            , trained on {origin.model},{" "}
            <a href={link(["cell", origin.layer, origin.position])}>layer {origin.layer}, position {origin.position}</a>
          </>
        ) : ""}
        . Entropy {shown(measures.entropy_bits, 1)} bits at FVU {shown(measures.fvu_train, 3)} on training and{" "}
        {shown(measures.fvu_val, 3)} on held-out texts.
      </p>
      {sweep && <Caveats runs={sweep} rows={own} />}
      <nav class="tabs" aria-label="Views of this encoder">
        {tab("features", "Features")}
        {tab("try", "Try a text", "try")}
        {tab("steer", "Steer", "steer")}
      </nav>
    </>
  );
}
