// How often the features of an encoder fire.
import { useMemo } from "preact/hooks";
import type { FeatureList } from "../api";
import { Chart, type Series } from "./chart";

export function Rates({ list }: { list: FeatureList }) {
  const series = useMemo(
    (): Series[] => [
      {
        label: "features", kind: "bars",
        x: list.rate_counts.map((_, i) => Math.sqrt(list.rate_edges[i]! * list.rate_edges[i + 1]!)), y: list.rate_counts,
      },
    ],
    [list],
  );
  if (!list.rate_counts.length) return <p>The firing rates of its features are not known.</p>;
  return <Chart title="Firing rates of the features" x="Share of samples (the first bar has all below)" y="Features" series={series} logX />;
}
