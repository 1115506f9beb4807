// What a view asks the service for: loaded, loading, or what went wrong and what to do about it.
import type { ComponentChildren } from "preact";
import { useCallback, useEffect, useState } from "preact/hooks";
import { link } from "./address";
import { ApiError, hasKey, setKey } from "./api";

const AGAIN_MS = 3000;

export interface Loaded<T> {
  value?: T;
  error?: ApiError;
  again: () => void;
}

/** The answer to `load`, asked for again where what it depends on changes, or where an error may pass. */
export function useLoaded<T>(load: (signal: AbortSignal) => Promise<T>, depends: unknown[]): Loaded<T> {
  const [state, setState] = useState<{ of?: unknown[]; value?: T; error?: ApiError }>({});
  const [round, setRound] = useState(0);
  const again = useCallback(() => setRound((number) => number + 1), []);
  useEffect(() => {
    const ended = new AbortController();
    let timer = 0;
    load(ended.signal).then(
      (value) => setState({ of: depends, value }),
      (error: unknown) => {
        if (ended.signal.aborted) return;
        const known = error instanceof ApiError ? error : new ApiError(0, "page", String(error));
        setState({ of: depends, error: known });
        if (known.passes) timer = window.setTimeout(again, AGAIN_MS);
      },
    );
    return () => {
      ended.abort();
      clearTimeout(timer);
    };
  }, [...depends, round]);
  // The answer to an earlier question is none to this one.
  const isOf = state.of?.length === depends.length && state.of.every((value, i) => Object.is(value, depends[i]));
  return isOf ? { value: state.value, error: state.error, again } : { again };
}

/** What is loaded, as `children` show it. */
export function Shown<T>(props: { of: Loaded<T>; what: string; children: (value: T) => ComponentChildren }) {
  const { value, error, again } = props.of;
  if (error) return <Failed error={error} again={again} />;
  if (value === undefined) return <p role="status">Loading {props.what} …</p>;
  return <>{props.children(value)}</>;
}

export function Failed({ error, again }: { error: ApiError; again?: () => void }) {
  if (error.status === 401) return <KeyForm wrong={hasKey()} />;
  return (
    <div class="problem" role="alert">
      <p>{error.message}</p>
      {error.status === 404 && (
        <p>
          It may have been removed or renamed. <a href={link([])}>Back to the map</a>
        </p>
      )}
      {error.passes && again && <p>The page asks again every few seconds.</p>}
      {again && (
        <button type="button" onClick={again}>
          Try again
        </button>
      )}
    </div>
  );
}

function KeyForm({ wrong }: { wrong: boolean }) {
  function give(event: SubmitEvent) {
    event.preventDefault();
    setKey(String(new FormData(event.target as HTMLFormElement).get("key")).trim());
    location.reload();
  }
  return (
    <form class="problem" onSubmit={give}>
      <p role="alert">{wrong ? "The service does not know this key." : "This service asks for a key."}</p>
      <p>
        Keys are the lines of the file that <code>bae-ray serve --keys-file</code> was given, or of the variable{" "}
        <code>BAE_RAY_API_KEYS</code>. Ask whoever runs the service for one. It stays in this tab.
      </p>
      <label>
        Key <input name="key" type="password" autocomplete="off" required />
      </label>{" "}
      <button>Use this key</button>
    </form>
  );
}
