// All encoders of the registry, whether a run has trained them or not.
import { useEffect, useState } from "preact/hooks";
import { link } from "../address";
import { get, type Encoder, type EncoderList } from "../api";
import { Shown, useLoaded } from "../loaded";
import { shown } from "../numbers";
import { Download } from "../parts/download";

const PAGE = 100;

export function EncodersView() {
  const [after, setAfter] = useState("");
  const [before, setBefore] = useState<Encoder[]>([]);
  const page = useLoaded(
    (signal) => get<EncoderList>(`encoders?limit=${PAGE}&after=${encodeURIComponent(after)}`, signal),
    [after],
  );
  useEffect(() => {
    document.title = "Encoders · bae_ray";
  }, []);
  return (
    <>
      <h1>Encoders</h1>
      <Shown of={page} what="the encoders">
        {({ encoders, next }) => {
          const all = [...before, ...encoders];
          return (
            <>
              <div class="scroll" tabIndex={0} role="region" aria-label="Encoders">
                <table>
                  <thead>
                    <tr>
                      {["Id", "Architecture", "Trained on", "Latents", "Entropy / bits", "FVU training", "FVU held-out"].map((name) => (
                        <th scope="col">{name}</th>
                      ))}
                    </tr>
                  </thead>
                  <tbody>{all.map((encoder) => <Line encoder={encoder} />)}</tbody>
                </table>
              </div>
              <p>
                {next && (
                  <button type="button" onClick={() => { setBefore(all); setAfter(next); }}>
                    More
                  </button>
                )}{" "}
                <Download name="encoders" rows={() => all} />
              </p>
            </>
          );
        }}
      </Shown>
    </>
  );
}

function Line({ encoder }: { encoder: Encoder }) {
  const { id, status, reason, architecture, origin, d_latent, measures = {} } = encoder;
  if (status === "broken")
    return (
      <tr>
        <th scope="row">{id}</th>
        <td class="words" colSpan={6}>cannot be used: {reason}</td>
      </tr>
    );
  return (
    <tr>
      <th scope="row"><a href={link(["encoder", id])}>{id}</a></th>
      <td>{architecture}</td>
      <td>{origin ? `${origin.model}, layer ${origin.layer}, position ${origin.position}` : "unknown"}</td>
      <td>{shown(d_latent)}</td>
      <td>{shown(measures.entropy_bits, 1)}</td>
      <td>{shown(measures.fvu_train, 3)}</td>
      <td>{shown(measures.fvu_val, 3)}</td>
    </tr>
  );
}
