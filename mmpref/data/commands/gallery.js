"use strict";
// All content arrives as JSON and is written with textContent: nothing of it is ever read as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const cards = data.cards, images = data.images;
  const $ = (id) => document.getElementById(id);
  const number = new Intl.NumberFormat("en", { maximumFractionDigits: 3 });
  const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "±") + number.format(Math.abs(value));

  const make = (name, className, text) => {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  // --- what the filters read --------------------------------------------------------------------------------------
  const joined = (pieces) => (pieces || []).map((piece) => piece[1]).join("");
  cards.forEach((card, place) => {
    card.order = place;
    card.margin = card.scores ? card.scores[0] - card.scores[1] : null;
    card.length = card.words && card.words[1] !== null && card.words[1] !== undefined ? card.words[0] - card.words[1] : null;
    card.longest = card.words ? Math.max(card.words[0], card.words[1] || 0) : 0;
    card.faults = (card.images || []).concat(card.rejectedImages || [], card.otherImages || [], ...(card.videos || [])).filter((at) => images[at].reason);
    const texts = [card.id, card.source, card.reason, card.detail, card.place, card.prefix, joined(card.chosen), joined(card.rejected)];
    for (const turn of card.prompt || []) texts.push(...turn.slice(1));
    for (const at of (card.images || []).concat(card.otherImages || [], ...(card.videos || []))) texts.push(images[at].name);
    card.searched = texts.filter(Boolean).join("\n").toLowerCase();
  });

  const kinds = [
    ["pair", "pairs", (card) => card.kind === "pair"],
    ["quarantined", "quarantined rows", (card) => card.kind === "quarantined"],
    ["inverted", "inverted scores", (card) => card.margin !== null && card.margin < 0],
    ["tied", "tied scores", (card) => card.margin === 0],
    ["unscored", "pairs without scores", (card) => card.kind === "pair" && !card.scores && card.rejected],
    ["near", "nearly identical answers", (card) => card.alike >= 0.9],
    ["longer", "chosen is longer", (card) => card.length > 0],
    ["shorter", "chosen is shorter", (card) => card.length !== null && card.length < 0],
    ["broken", "images or videos that cannot be opened", (card) => card.faults.length > 0],
    ["demonstration", "demonstrations", (card) => card.kind === "pair" && !card.rejected && card.label === undefined],
    ["desirable", "desirable answers", (card) => card.label === true],
    ["undesirable", "undesirable answers", (card) => card.label === false],
    ["other", "pairs with another image", (card) => Boolean(card.otherImages)],
    ["weighted", "weighted rows", (card) => card.weight !== undefined || Boolean(card.answerWeights)],
  ];
  const byValue = (key, sign) => (a, b) => {
    const left = a[key], right = b[key];
    if (left === null || left === undefined || right === null || right === undefined) {
      return (left === null || left === undefined) - (right === null || right === undefined) || a.order - b.order;
    }
    return sign * (left - right) || a.order - b.order;
  };
  const sorts = [
    ["margin-up", "score margin, smallest first", byValue("margin", 1), "margin"],
    ["margin-down", "score margin, largest first", byValue("margin", -1), "margin"],
    ["length-down", "chosen longest against rejected", byValue("length", -1), "length"],
    ["length-up", "chosen shortest against rejected", byValue("length", 1), "length"],
    ["alike-down", "most alike answers", byValue("alike", -1), "alike"],
    ["longest-down", "longest answers", byValue("longest", -1), "length"],
  ];
  const option = (select, value, text) => {
    const node = make("option", "", text);
    node.value = value;
    select.append(node);
  };
  for (const [value, name, fits] of kinds) {
    const found = cards.filter(fits).length;
    if (found && found < cards.length) option($("kind"), value, `${name} (${number.format(found)})`);
  }
  for (const [value, name, , key] of sorts) {
    if (cards.some((card) => card[key] !== null && card[key] !== undefined)) option($("sort"), value, name);
  }

  // --- more filters -----------------------------------------------------------------------------------------------
  const ranges = [], choices = [];
  const addRange = (key, name, step) => {
    const values = cards.map((card) => card[key]).filter((value) => value !== null && value !== undefined);
    if (!values.length) return;
    const low = Math.min(...values), high = Math.max(...values);
    if (low === high) return;
    const box = make("fieldset");
    box.append(make("legend", "", name));
    const bins = 24, counts = new Array(bins).fill(0);
    for (const value of values) counts[Math.min(bins - 1, Math.floor(((value - low) / (high - low)) * bins))] += 1;
    const bars = make("div", "bars"), top = Math.max(...counts);
    bars.setAttribute("role", "img");
    bars.setAttribute("aria-label", `Histogram of ${name}, ${number.format(low)} to ${number.format(high)}`);
    const columns = counts.map((count) => {
      const bar = make("i");
      bar.style.height = count ? `${8 + (92 * count) / top}%` : "0";
      bars.append(bar);
      return bar;
    });
    const row = make("div", "from-to");
    const input = (label, id, placeholder) => {
      const holder = make("label", "", label);
      const field = make("input");
      field.type = "number"; field.step = step; field.id = id; field.placeholder = number.format(placeholder);
      holder.append(field);
      row.append(holder);
      return field;
    };
    const from = input("from", `${key}-from`, low), to = input("to", `${key}-to`, high);
    box.append(bars, row);
    $("ranges").append(box);
    ranges.push({ key, from, to, paint: () => {
      const least = from.value === "" ? -Infinity : +from.value, most = to.value === "" ? Infinity : +to.value;
      columns.forEach((bar, place) => {
        const start = low + ((high - low) * place) / bins, end = low + ((high - low) * (place + 1)) / bins;
        bar.classList.toggle("out", end < least || start > most);
      });
    } });
  };
  const addChoice = (key, name) => {
    const counts = new Map();
    for (const card of cards) if (card[key]) counts.set(card[key], (counts.get(card[key]) || 0) + 1);
    if (!counts.size || (key === "source" && counts.size < 2)) return;
    const holder = make("label", "", name), select = make("select");
    select.id = key;
    option(select, "", "any");
    for (const [value, count] of [...counts].sort((a, b) => b[1] - a[1])) option(select, value, `${value} (${number.format(count)})`);
    holder.append(select);
    $("ranges").append(holder);
    choices.push({ key, select });
  };
  addRange("margin", "score margin", "any");
  addRange("length", "words, chosen minus rejected", "1");
  addRange("alike", "similarity of the answers", "any");
  addChoice("reason", "Reason in quarantine");
  addChoice("source", "Source");
  if (!ranges.length && !choices.length) $("more").hidden = true;

  // --- a card -----------------------------------------------------------------------------------------------------
  const image = (at, label) => {
    const found = images[at], figure = make("figure");
    if (found.src) {
      const image = make("img", found.tiny ? "tiny" : "");
      image.alt = `${label}: ${found.name}`;
      image.width = found.width; image.height = found.height;
      image.loading = "lazy"; image.decoding = "async";
      image.src = found.src;
      figure.append(image);
      const caption = make("figcaption", "", found.name);
      caption.append(make("span", "size", ` ${found.width} × ${found.height}`));
      figure.append(caption);
    } else {
      figure.append(make("p", "no-image", found.why), make("figcaption", "", found.name));
    }
    return figure;
  };
  const album = (places, label) => {
    const box = make("div", "album");
    places.forEach((at, place) => box.append(image(at, places.length > 1 ? `${label} ${place + 1}` : label)));
    return box;
  };
  const answer = (card, side) => {
    const place = side === "chosen" ? 0 : 1;
    const box = make("section", side), head = make("h3", "", side === "rejected" ? "Rejected" : card.label === undefined ? "Chosen" : "Answer");
    const facts = [];
    if (card.scores) facts.push(`score ${number.format(card.scores[place])}`);
    facts.push(`${number.format(card.words[place])} ${card.words[place] === 1 ? "word" : "words"}`);
    if (card.answerWeights && card.answerWeights[place]) facts.push(card.answerWeights[place]);
    if (card.characters) facts.push(`${number.format(card.characters[place])} characters`);
    head.append(make("span", "facts", facts.join(" · ")));
    box.append(head);
    if (side === "rejected" && card.rejectedImages) box.append(album(card.rejectedImages, "Image of the rejected side"));
    const text = make("p", "said");
    text.dir = "auto";
    if (card.prefix) text.append(make("span", "prefix", card.prefix));
    for (const [differs, words] of card[side]) {
      text.append(differs ? make(side === "chosen" ? "ins" : "del", "", words) : document.createTextNode(words));
    }
    box.append(text);
    return box;
  };
  const draw = (card) => {
    const node = make("article", card.kind), head = make("h2"), titleId = `title-${card.order}`;
    head.id = titleId;
    node.setAttribute("aria-labelledby", titleId);
    node.tabIndex = -1;
    head.append(make("span", "id", card.id || (card.place || "").split(/[/\\]/).pop() || "no id"));
    if (card.source) head.append(make("span", "source", card.source));
    const flag = (name, text) => head.append(make("span", `flag ${name}`, text));
    if (card.kind === "quarantined") flag("bad", card.reason);
    if (card.margin !== null) flag(card.margin < 0 ? "bad" : card.margin === 0 ? "odd" : "plain", card.margin < 0 ? `inverted, margin ${signed(card.margin)}` : card.margin === 0 ? "tied" : `margin ${signed(card.margin)}`);
    if (card.length !== null) flag("plain", card.length === 0 ? "same length" : `chosen ${signed(card.length)} ${Math.abs(card.length) === 1 ? "word" : "words"}`);
    if (card.alike >= 0.9) flag("odd", "nearly identical");
    if (card.label !== undefined) flag(card.label ? "plain" : "odd", card.label ? "desirable" : "undesirable");
    else if (card.kind === "pair" && !card.rejected) flag("plain", "demonstration");
    if (card.weight !== undefined) flag(card.weight ? "plain" : "odd", `weight ${number.format(card.weight)}`);
    if (card.faults.length) flag("bad", images[card.faults[0]].reason);
    node.append(head);
    if (card.kind === "quarantined") {
      node.append(make("p", "detail", card.detail), make("p", "where", card.place));
      return node;
    }
    const videos = card.videos || [];
    const body = make("div", card.images.length || videos.length ? "body" : "body bare");
    if (card.images.length || videos.length) {
      const media = make("div", "media");
      if (card.images.length) media.append(album(card.images, "Image"));
      if (card.otherImages) media.append(album(card.otherImages, "Other image, compared with it"));
      videos.forEach((frames, place) => {
        const strip = album(frames, videos.length > 1 ? `Video ${place + 1}, frame` : "Frame");
        strip.classList.add("frames");
        media.append(strip);
      });
      body.append(videos.length || card.otherImages ? media : media.firstChild);
    }
    const words = make("div", "words"), prompt = make("div", "prompt");
    const plain = card.prompt.length === 1;
    let place = 0, video = 0;
    for (const [role, ...parts] of card.prompt) {
      const turn = make("p", `turn ${role}`);
      turn.dir = "auto";
      if (!plain) turn.append(make("b", "role", role));
      for (const part of parts) {
        if (part === 0) {
          video += 1;
          if (videos.length > 1 || card.images.length || !plain) turn.append(make("span", "slot", videos.length > 1 ? `video ${video}` : "video"));
          continue;
        }
        if (part !== null) { turn.append(document.createTextNode(part)); continue; }
        place += 1;
        if (card.images.length > 1 || videos.length || !plain) turn.append(make("span", "slot", card.images.length > 1 ? `image ${place}` : "image"));
      }
      prompt.append(turn);
    }
    words.append(prompt);
    const answers = make("div", "answers");
    answers.append(answer(card, "chosen"));
    if (card.rejected) answers.append(answer(card, "rejected"));
    words.append(answers);
    if (card.unmarked) words.append(make("p", "note", `The answers share ${Math.round(100 * card.alike)} % of their words in order; differences are not marked.`));
    if (card.meta) {
      const more = make("details");
      more.append(make("summary", "", "meta"), make("pre", "", card.meta));
      words.append(more);
    }
    body.append(words);
    node.append(body);
    return node;
  };

  // --- showing ----------------------------------------------------------------------------------------------------
  const list = $("cards"), drawn = new Map();
  let shown = [], next = 0, job = 0;
  const nodeOf = (card) => {
    if (!drawn.has(card)) drawn.set(card, draw(card));
    return drawn.get(card);
  };
  const fill = (number_, until) => {
    const part = document.createDocumentFragment();
    const end = Math.min(shown.length, next + number_);
    while (next < end && performance.now() < until) part.append(nodeOf(shown[next++]));
    list.append(part);
  };
  const fillRest = () => {
    job = 0;
    fill(shown.length, performance.now() + 12);
    if (next < shown.length) job = setTimeout(fillRest, 0);
    else list.removeAttribute("aria-busy");
  };
  const read = () => {
    const wanted = $("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = kinds.find(([value]) => value === $("kind").value);
    const sort = sorts.find(([value]) => value === $("sort").value);
    const limits = ranges.filter(({ from, to }) => from.value !== "" || to.value !== "")
      .map(({ key, from, to }) => [key, from.value === "" ? -Infinity : +from.value, to.value === "" ? Infinity : +to.value]);
    const picked = choices.filter(({ select }) => select.value !== "").map(({ key, select }) => [key, select.value]);
    const found = cards.filter((card) =>
      (!kind || kind[2](card)) &&
      wanted.every((word) => card.searched.includes(word)) &&
      limits.every(([key, least, most]) => card[key] !== null && card[key] !== undefined && card[key] >= least && card[key] <= most) &&
      picked.every(([key, value]) => card[key] === value));
    return sort ? found.sort(sort[2]) : found;
  };
  const show = () => {
    clearTimeout(job);
    shown = read();
    next = 0;
    list.replaceChildren();
    list.setAttribute("aria-busy", "true");
    fill(12, Infinity);
    job = setTimeout(fillRest, 0);
    ranges.forEach((range) => range.paint());
    $("none").hidden = shown.length > 0;
    const pairs = shown.filter((card) => card.kind === "pair").length, rest = shown.length - pairs;
    const name = (count, one, many) => `${number.format(count)} ${count === 1 ? one : many}`;
    const parts = [];
    if (pairs || !rest) parts.push(name(pairs, "pair", "pairs"));
    if (rest) parts.push(name(rest, "quarantined row", "quarantined rows"));
    $("count").textContent = shown.length === cards.length ? `All ${parts.join(" and ")}` : `${parts.join(" and ")} of ${number.format(cards.length)}`;
    remember();
  };

  // --- filters live in the address, so that a view can be kept ------------------------------------------------------
  const fields = () => [...$("filters").querySelectorAll("input, select")];
  const remember = () => {
    const kept = new URLSearchParams();
    for (const field of fields()) if (field.value !== "" && !(field.id === "sort" && field.value === "order")) kept.set(field.id, field.value);
    try { history.replaceState(null, "", kept.size ? `#${kept}` : location.pathname + location.search); } catch { /* a frame without an address */ }
  };
  const recall = () => {
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const field of fields()) {
      const value = kept.get(field.id);
      if (value === null) { if (field.tagName === "SELECT") field.selectedIndex = 0; else field.value = ""; }
      else if (field.tagName !== "SELECT" || [...field.options].some((each) => each.value === value)) field.value = value;
    }
    if ([...$("ranges").querySelectorAll("input, select")].some((field) => field.value !== "")) openMore(true);
  };
  const openMore = (open) => {
    $("ranges").hidden = !open;
    $("more").setAttribute("aria-expanded", String(open));
    $("more").textContent = open ? "Fewer filters" : "More filters";
  };

  let pause = 0;
  $("filters").addEventListener("input", (event) => {
    clearTimeout(pause);
    pause = setTimeout(show, event.target.tagName === "SELECT" ? 0 : 150);
  });
  $("filters").addEventListener("submit", (event) => { event.preventDefault(); show(); });
  $("filters").addEventListener("reset", () => setTimeout(show, 0));
  $("more").addEventListener("click", () => openMore($("ranges").hidden));
  window.addEventListener("hashchange", () => { if (location.hash !== "#cards") { recall(); show(); } });
  // j and k step through the cards while the focus is among them
  list.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !["j", "k"].includes(event.key)) return;
    const here = event.target.closest("article");
    const to = here ? (event.key === "j" ? here.nextElementSibling : here.previousElementSibling) : list.firstElementChild;
    if (to) { to.focus(); to.scrollIntoView({ block: "start" }); event.preventDefault(); }
  });

  // --- the line under the heading -----------------------------------------------------------------------------------
  const numShown = cards.filter((card) => card.kind === "pair").length, numAside = cards.length - numShown;
  const lines = [numShown < data.numPairs ? `${number.format(numShown)} of ${number.format(data.numPairs)} pairs, evenly spaced` : `${number.format(numShown)} ${numShown === 1 ? "pair" : "pairs"}`];
  if (data.numQuarantined) lines.push(numAside < data.numQuarantined ? `${number.format(numAside)} of ${number.format(data.numQuarantined)} quarantined rows` : `${number.format(numAside)} quarantined ${numAside === 1 ? "row" : "rows"}`);
  const compared = cards.filter((card) => card.length !== null), longer = compared.filter((card) => card.length > 0).length;
  if (compared.length) lines.push(`the chosen answer is longer in ${Math.round((100 * longer) / compared.length)} %`);
  const scored = cards.filter((card) => card.margin !== null), inverted = scored.filter((card) => card.margin < 0).length;
  if (scored.length) lines.push(inverted ? `${number.format(inverted)} inverted` : "none inverted");
  $("summary").textContent = lines.join(" · ");

  recall();
  show();
})();
