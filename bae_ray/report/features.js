"use strict";
// The feature browser: search, order, cards that open. All text goes in as text, never as HTML.
(function (data) {
  const PAGE = 100;
  const BINS = 20;
  const byId = (id) => document.getElementById(id);
  const number = (value, digits = 3) => (value === null ? "-" : value.toPrecision(digits));
  let shown = PAGE;
  let open = null;

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  for (const feature of data.features) {
    const pieces = feature.tokens.flatMap((one) => [one.pieces[one.at]]);
    feature.shown = [...new Set(pieces.map((piece) => piece.trim()))].filter(Boolean).join(", ");
    feature.searched = [`#${feature.index}\n`, feature.explanation, ...pieces].join("\n").toLowerCase();
  }

  const scores = data.features.map((feature) => feature.score).filter((score) => score !== null);
  const bin = (score) => Math.min(BINS - 1, Math.floor(score * BINS));
  function drawHistogram() {
    const counts = new Array(BINS).fill(0);
    scores.forEach((score) => (counts[bin(score)] += 1));
    const most = Math.max(1, ...counts);
    byId("histogram").replaceChildren(...counts.map((count, i) => {
      const bar = element("div", open && open.score !== null && bin(open.score) === i ? "here" : "");
      bar.style.height = `${(100 * count) / most}%`;
      bar.title = `${i / BINS} to ${(i + 1) / BINS}: ${count} features`;
      bar.dataset.count = count;
      return bar;
    }));
    byId("histogram-text").textContent = open && open.score !== null
      ? `feature ${open.index} scores ${number(open.score)}, as much as or more than ` +
        `${Math.round((100 * scores.filter((score) => score <= open.score).length) / scores.length)} % of the features`
      : `scores of ${scores.length} features`;
  }

  function spreadOf(sample) {
    const low = sample[0];
    const range = sample[sample.length - 1] - low;
    const counts = new Array(BINS).fill(0);
    sample.forEach((value) => (counts[range ? Math.min(BINS - 1, Math.floor((BINS * (value - low)) / range)) : 0] += 1));
    const most = Math.max(...counts);
    const bars = element("div", "spread");
    counts.forEach((count) => {
      const bar = element("div");
      bar.style.height = `${(100 * count) / most}%`;
      bar.dataset.count = count;
      bars.append(bar);
    });
    const ends = element("div", "axis spread-axis");
    ends.append(element("span", "", number(low)), element("span", "", number(sample[sample.length - 1])));
    const all = element("div");
    all.append(element("h4", "", `Magnitudes of ${sample.length} activations, drawn at random`), bars, ends);
    return all;
  }

  function wordsOf(className, words) {
    const line = element("div", `words ${className}`);
    words.forEach((word) => line.append(element("span", "", word)));
    return line;
  }

  const byIndex = new Map(data.features.map((feature) => [feature.index, feature]));
  function similarOf(other) {
    const there = byIndex.get(other.index);
    const name = there ? there.explanation || there.shown : "";
    const line = element(there ? "button" : "div", "similar", `#${other.index} ${name} (cosine ${number(other.cosine)})`);
    if (there) line.addEventListener("click", () => {
      byId("search").value = `#${other.index}`;
      open = there;
      draw();
    });
    return line;
  }

  function exampleOf(one, className = "example") {
    const line = element("div", className);
    const known = one.values.filter((value) => value !== null);
    const low = Math.min(...known);
    const range = Math.max(...known) - low;
    one.pieces.forEach((piece, i) => {
      const value = one.values[i];
      const mark = element("mark", i === one.at ? "strongest" : "", piece);
      mark.style.setProperty("--strength", value === null || range === 0 ? 0 : ((value - low) / range).toFixed(3));
      mark.title = value === null ? "not looked at" : `magnitude ${number(value, 4)}`;
      line.append(mark);
    });
    return line;
  }

  function bodyOf(feature) {
    const body = element("div", "body");
    const level = feature.chance === null ? "" : `, chance level ${number(feature.chance)} (on another feature's tokens)`;
    if (feature.status === "unscored") body.append(element("div", "quiet", "not scored: only a sample of the features was"));
    else body.append(element("div", "score", `score ${number(feature.score)} of ${feature.n} held-out examples${level}`));
    if (feature.p_yes !== null) body.append(element("div", "", `mean P(Yes) ${number(feature.p_yes)}`));
    body.append(element("div", "rate", `fires on ${number(100 * feature.rate)} % of the tokens` +
      `, entropy ${number(feature.entropy)} bits, among the strongest of ${feature.count} tokens`));
    if (!["scored", "unscored"].includes(feature.status)) body.append(element("div", "warning", `${feature.status} ${feature.error}`));
    if (feature.problems) body.append(element("div", "warning", `${feature.problems} judgements could not be read`));
    feature.tokens.forEach((one) => body.append(exampleOf(one)));
    // Cards written by earlier versions have none of these.
    if ((feature.quantiles || []).length) {
      body.append(element("h4", "", "Weaker activations"), element("div", "quiet", "from the upper quartile down"));
      feature.quantiles.forEach((one) => body.append(exampleOf(one, "example weaker")));
    }
    if ((feature.sample || []).length) body.append(spreadOf(feature.sample));
    if ((feature.promoted || []).length) {
      body.append(element("h4", "", "Words it speaks for"), wordsOf("promoted", feature.promoted));
      body.append(element("h4", "", "and against"), wordsOf("suppressed", feature.suppressed));
    }
    if ((feature.similar || []).length) {
      body.append(element("h4", "", "Similar features"));
      feature.similar.forEach((other) => body.append(similarOf(other)));
    }
    return body;
  }

  function cardOf(feature) {
    const card = element("div", "card");
    card.id = `feature-${feature.index}`;
    const head = element("button");
    head.setAttribute("aria-expanded", String(open === feature));
    head.append(
      element("span", "number", `#${feature.index}`),
      element("span", feature.explanation ? "name" : "name quiet", feature.explanation || feature.shown || feature.status),
      element("span", "number", feature.status === "unscored" ? "not scored" : `score ${number(feature.score)}`),
    );
    head.addEventListener("click", () => {
      open = open === feature ? null : feature;
      draw();
    });
    card.append(head);
    if (open === feature) card.append(bodyOf(feature));
    return card;
  }

  function draw() {
    const said = byId("search").value.trim().toLowerCase();
    const wanted = /^#\d+$/.test(said) ? `${said}\n` : said;
    const key = byId("sort").value;
    const sign = byId("ascending").checked ? 1 : -1;
    const found = data.features.filter((feature) => feature.searched.includes(wanted));
    found.sort((a, b) => {
      if (a[key] === null || b[key] === null) return (a[key] === null) - (b[key] === null);
      return sign * (a[key] - b[key]) || a.index - b.index;
    });
    byId("count").textContent = `${found.length} of ${data.features.length} features`;
    byId("cards").replaceChildren(...found.slice(0, shown).map(cardOf));
    byId("more").hidden = found.length <= shown;
    drawHistogram();
  }

  byId("search").addEventListener("input", () => { shown = PAGE; draw(); });
  byId("sort").addEventListener("change", draw);
  byId("ascending").addEventListener("change", draw);
  byId("more").addEventListener("click", () => { shown += PAGE; draw(); });
  draw();
  document.body.dataset.ready = "yes";
})(JSON.parse(document.getElementById("features-data").textContent));
