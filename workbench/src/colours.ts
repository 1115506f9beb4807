// Colours of values: five of viridis, which reads in grey and to the colour-blind, and text that can be read on them.
type Rgb = [number, number, number];
const SCALE: Rgb[] = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const PALE: Rgb = [246, 246, 240];
const STRONG: Rgb = [196, 84, 0];

export interface Look extends Record<string, string> {
  backgroundColor: string;
  color: string;
}

/** Of a share from 0 to 1 of the scale. */
export function onScale(share: number): Look {
  const at = Math.min(1, Math.max(0, share)) * (SCALE.length - 1);
  const low = Math.min(SCALE.length - 2, Math.floor(at));
  return look(mixed(SCALE[low]!, SCALE[low + 1]!, at - low));
}

/** From pale to strong: for tokens, of which most are at 0. */
export const strength = (share: number): Look => look(mixed(PALE, STRONG, Math.min(1, Math.max(0, share))));

function mixed(a: Rgb, b: Rgb, share: number): Rgb {
  return a.map((value, i) => Math.round(value + (b[i]! - value) * share)) as Rgb;
}

function look(rgb: Rgb): Look {
  const [r, g, b] = rgb.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  }) as Rgb;
  const luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return { backgroundColor: `rgb(${rgb.join(" ")})`, color: luminance > 0.179 ? "#000" : "#fff" };
}
