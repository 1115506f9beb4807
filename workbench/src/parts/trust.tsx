// How far a judge's names and scores can be trusted: its own accuracy, and what chance scores.
import { shown } from "../numbers";

type Told = Record<string, unknown> | null | undefined;
const number = (told: Told, name: string) => shown(told?.[name] as number | undefined, 2);

export function Trust({ judge, summary }: { judge: Told; summary?: Told }) {
  if (!judge) return null;
  const warnings = Array.isArray(judge.warnings) ? judge.warnings.map(String) : [];
  return (
    <section aria-label="The judge">
      <h2>How far to trust the names</h2>
      <p>
        The judge {String(judge.model)} tells {number(judge, "balanced_accuracy")} of {shown(judge.pairs as number)} known pairs
        apart (balanced accuracy; .5 is chance; 95 % interval {number(judge, "accuracy_low")} to {number(judge, "accuracy_high")}).
        {summary && (
          <>
            {" "}
            Its scores have the mean {number(summary, "score")}; the same names on another feature's tokens score{" "}
            {number(summary, "chance")}, sets of random tokens {number(summary, "random")}.
          </>
        )}
      </p>
      {warnings.map((warning) => <p class="warning">{warning}</p>)}
    </section>
  );
}
