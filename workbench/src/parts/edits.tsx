// The features that are changed while the model writes.
import type { Encoder } from "../api";
import { HOWS, STRENGTH, type Edit, type How } from "../steering";

export function EditRows({ encoder, edits, onChange }: { encoder: Encoder; edits: Edit[]; onChange: (edits: Edit[]) => void }) {
  const set = (i: number, changed: Partial<Edit>) => onChange(edits.map((edit, at) => (at === i ? { ...edit, ...changed } : edit)));
  const held = encoder.binary ? 1 : 4; // a bit is 0 or 1
  return (
    <fieldset>
      <legend>Features</legend>
      {edits.map((edit, i) => (
        <div class="controls">
          <label>
            Feature{" "}
            <input type="number" required min={0} max={(encoder.d_latent ?? 1) - 1} value={edit.feature} onInput={(event) => set(i, { feature: event.currentTarget.valueAsNumber })} />
          </label>
          <label>
            <span class="hidden">What to do with it</span>
            <select value={edit.how} onChange={(event) => set(i, { how: event.currentTarget.value as How, strength: event.currentTarget.value === "on" ? held : STRENGTH })}>
              {Object.entries(HOWS).map(([name, label]) => <option value={name}>{label}</option>)}
            </select>
          </label>
          {edit.how !== "off" && !(edit.how === "on" && encoder.binary) && (
            <label>
              {edit.how === "add" ? "times" : "at"}{" "}
              <input type="number" required step="any" value={edit.strength} onInput={(event) => set(i, { strength: event.currentTarget.valueAsNumber })} />
            </label>
          )}
          {edits.length > 1 && <button type="button" onClick={() => onChange(edits.filter((_, at) => at !== i))}>Remove<span class="hidden"> feature {edit.feature}</span></button>}
        </div>
      ))}
      <p class="note">
        Once its direction is what the feature adds to the reconstruction {encoder.binary ? "when its bit is 1" : "at a magnitude of 1"}. Begin
        with a few times; much more breaks the text.
      </p>
      <button type="button" onClick={() => onChange([...edits, { feature: 0, how: "add", strength: STRENGTH }])}>Another feature</button>
    </fieldset>
  );
}
