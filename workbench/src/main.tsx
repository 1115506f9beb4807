// The workbench: one page, whose views are addresses.
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import "./style.css";
import { link, useAddress, type Address } from "./address";
import { apply, choose, chosen, type Theme } from "./theme";
import { CellView } from "./views/cell";
import { EncoderView } from "./views/encoder";
import { EncodersView } from "./views/encoders";
import { FeatureView } from "./views/feature";
import { MapView } from "./views/map";
import { SteerView } from "./views/steer";
import { TryView } from "./views/try";

function View({ path, query }: Address) {
  const [place, id = "", part, index = ""] = path;
  if (place === undefined) return <MapView query={query} />;
  if (place === "encoders") return <EncodersView />;
  if (place === "cell") return <CellView layer={id} position={part ?? ""} />;
  if (place === "encoder" && id) {
    if (part === undefined) return <EncoderView key={id} id={id} query={query} />;
    if (part === "feature") return <FeatureView key={`${id} ${index}`} id={id} index={Number(index)} />;
    if (part === "try") return <TryView key={id} id={id} query={query} />;
    if (part === "steer") return <SteerView key={id} id={id} query={query} />;
  }
  return (
    <p role="alert">
      There is no such view. <a href={link([])}>To the map</a>
    </p>
  );
}

function Page() {
  const address = useAddress();
  const [theme, setTheme] = useState<Theme>(chosen());
  const view = address.path.slice(0, 4).join("/");
  useEffect(() => {
    scrollTo(0, 0);
    const heading = document.querySelector("h1");
    document.title = `${heading?.textContent ?? "workbench"} · bae_ray`;
  }, [view]);
  return (
    <>
      <a class="skip" href="#content" onClick={(event) => { event.preventDefault(); document.getElementById("content")?.focus(); }}>
        To the content
      </a>
      <header>
        <nav aria-label="Views">
          <strong>bae_ray</strong>
          <a href={link([])} aria-current={address.path.length === 0 ? "page" : undefined}>Map</a>
          <a href={link(["encoders"])} aria-current={address.path[0] === "encoders" ? "page" : undefined}>Encoders</a>
          <a href="docs">API</a>
        </nav>
        <label>
          Theme{" "}
          <select
            value={theme}
            onChange={(event) => {
              setTheme(event.currentTarget.value as Theme);
              choose(event.currentTarget.value as Theme);
            }}
          >
            <option value="auto">as the system</option>
            <option value="light">light</option>
            <option value="dark">dark</option>
          </select>
        </label>
      </header>
      <main id="content" tabIndex={-1}>
        <View {...address} />
      </main>
    </>
  );
}

apply();
render(<Page />, document.getElementById("workbench")!);
document.body.dataset.ready = "yes";
