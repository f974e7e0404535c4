// The samples of a run: large, at the chosen step; a strip of all steps below; and in a dialog, where arrows step through
// them. Of two runs that are compared both are shown, and of several prompts one or all.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const SMALL = 160; // pixels of a sample in the strip
    const ALL = "all";
    let runs; // blocktrain.runs
    let parts;

    // The samples by prompt, which is told by the number in the file's name.
    function prompts(run) {
        const found = new Map();
        for (const sample of run?.samples || []) {
            const number = sample.file.split("-")[1];
            if (!found.has(number)) {
                found.set(number, []);
            }
            const own = found.get(number);
            const again = own.findIndex((other) => other.step === sample.step); // after it was resumed
            if (again >= 0) {
                own[again] = sample;
            } else {
                own.push(sample);
            }
        }
        return [...found.entries()].sort().map(([number, samples]) => ({ number, samples, prompt: samples[samples.length - 1].prompt }));
    }

    // The newest sample up to a step; before the first one, the first.
    const at = (samples, step) => [...samples].reverse().find((sample) => sample.step <= step) || samples[0];

    // What is shown large: [{run, sample, letter}].
    function shownNow() {
        const { data, state } = runs;
        const own = prompts(data.curves);
        const step = runs.step();
        const chosen = state.prompt === ALL ? own : own.slice(Math.min(Number(state.prompt) || 0, Math.max(0, own.length - 1))).slice(0, 1);
        const found = [];
        for (const { number, samples } of chosen) {
            found.push({ run: data.curves, number, sample: at(samples, step), letter: data.other ? "A" : "" });
            const theirs = prompts(data.other).find((other) => other.number === number);
            if (theirs) {
                found.push({ run: data.other, number, sample: at(theirs.samples, step), letter: "B" });
            }
        }
        return found;
    }

    // An image, whose address is changed only where it is another one, so that nothing blinks.
    function picture(image, run, sample, side) {
        const address = runs.picture(run, sample, side);
        if (image.getAttribute("src") !== address) {
            image.src = address;
        }
        image.alt = `step ${sample.step}: ${sample.prompt}`;
        image.onerror = () => address.startsWith("data:") || runs.cannotFetch();
    }

    // As many children as there are items, made by `make` and filled by `fill`.
    function fit(parent, items, make, fill) {
        while (parent.children.length > items.length) {
            parent.lastChild.remove();
        }
        items.forEach((item, index) => {
            const child = parent.children[index] || parent.appendChild(make());
            fill(child, item);
        });
    }

    let drawn = null;

    function draw() {
        const { data, state, made } = runs;
        const own = prompts(data.curves);
        parts.none.hidden = own.length > 0 || !data.curves;
        const going = ["run", "wait"].includes(data.table?.runs.find((run) => run.name === data.curves?.name)?.kind);
        parts.none.textContent = going ? "No sample yet." : "This run drew no samples.";
        for (const part of [parts.big, parts.caption, parts.film, parts.latest]) {
            part.hidden = !own.length;
        }
        drawPrompts(own);
        if (!own.length) {
            parts.big.replaceChildren();
            parts.film.replaceChildren();
            return;
        }
        const now = shownNow();
        fit(parts.big, now, figure, (element, { run, sample, letter }) => {
            picture(element.querySelector("img"), run, sample, 0);
            const badge = element.querySelector(".blocktrain-ab");
            badge.textContent = letter;
            badge.hidden = !letter;
            badge.className = `blocktrain-ab blocktrain-is-${letter.toLowerCase()}`;
            element.querySelector("figcaption").textContent = state.prompt === ALL ? `${letter ? `${letter} · ` : ""}step ${sample.step} · ${sample.prompt}` : "";
        });
        const first = now[0];
        const seed = data.curves.seed + Number(first.number.slice(0, 2));
        const same = state.prompt === ALL ? "" : first.sample.prompt;
        const steps = now.map(({ sample, letter }) => `${letter ? `${letter} ` : ""}step ${sample.step}`).join(", ");
        parts.caption.replaceChildren(...(same ? [same, made("br")] : []), made("small", { textContent: state.prompt === ALL ? data.curves.drawn : `${steps} · seed ${seed} · ${data.curves.drawn}` }));
        parts.latest.style.visibility = state.step === null ? "hidden" : "";
        drawFilm(own, first);
    }

    function drawPrompts(own) {
        const { made, state } = runs;
        parts.prompts.hidden = own.length < 2;
        const titles = [...own.map((_, index) => (own.length > 3 ? `${index + 1}` : `Prompt ${index + 1}`)), "All"];
        fit(parts.prompts, titles, () => made("button", { type: "button" }), (button, title) => {
            const index = titles.indexOf(title);
            const value = index === own.length ? ALL : index;
            button.textContent = title;
            button.title = own[index]?.prompt || "All prompts side by side";
            button.setAttribute("aria-pressed", String(String(state.prompt) === String(value)));
            button.onclick = () => runs.set({ prompt: value });
        });
    }

    function drawFilm(own, { run, number, sample }) {
        const { made } = runs;
        const { samples } = own.find((prompt) => prompt.number === number);
        const frame = () => made("button", { type: "button", className: "blocktrain-fr" }, made("img", { loading: "lazy" }), made("small"));
        fit(parts.film, samples, frame, (button, other) => {
            const now = other === sample;
            picture(button.querySelector("img"), run, other, SMALL);
            button.querySelector("small").textContent = other.step;
            button.title = `Step ${other.step}`;
            button.classList.toggle("blocktrain-is-now", now);
            button.setAttribute("aria-current", String(now));
            const newest = other === samples[samples.length - 1];
            button.onclick = () => runs.set({ step: newest ? null : other.step });
        });
        const key = `${run.name}/${sample.file}/${samples.length}`;
        if (drawn !== key) { // only then, since the user may have scrolled
            drawn = key;
            const frameNow = parts.film.children[samples.indexOf(sample)];
            parts.film.scrollLeft = frameNow.offsetLeft - (parts.film.clientWidth - frameNow.offsetWidth) / 2;
        }
    }

    function figure() {
        const { made } = runs;
        const zoom = made("button", { type: "button", className: "blocktrain-zoom-b", title: "Enlarge; arrows step through the samples" }, made("img"));
        const element = made("figure", {}, zoom, made("i", { className: "blocktrain-ab" }), made("figcaption"));
        zoom.addEventListener("click", () => openZoom([...parts.big.children].indexOf(element)));
        return element;
    }

    // --- the dialog -------------------------------------------------------------------------------------------------

    // Left and right step through the samples, up and down through the prompts and runs shown side by side.
    function openZoom(index) {
        const { made } = runs;
        const image = made("img");
        const said = made("p");
        const arrow = (text, about, move) => {
            const button = made("button", { type: "button", className: "blocktrain-btn blocktrain-icon", textContent: text, title: about });
            button.setAttribute("aria-label", about);
            button.addEventListener("click", () => step(move));
            return button;
        };
        const close = made("button", { type: "button", className: "blocktrain-btn", textContent: "Close" });
        const foot = made("div", { className: "blocktrain-zoom-f" }, arrow("←", "The sample before", -1), said, arrow("→", "The next sample", 1), close);
        const popup = made("dialog", { className: "blocktrain-zoom-d" }, image, foot);
        popup.setAttribute("aria-label", "Sample");
        let at = index;

        const samplesOf = ({ run, number }) => prompts(run).find((prompt) => prompt.number === number).samples;

        function show() {
            const now = shownNow();
            at = Math.min(at, now.length - 1);
            const { run, sample, letter } = now[at];
            picture(image, run, sample, 0);
            said.textContent = `${letter ? `${letter} · ` : ""}${run.title} · step ${sample.step} · ${sample.prompt}`;
        }

        function step(move) {
            const { sample, run, number } = shownNow()[at];
            const samples = samplesOf({ run, number });
            const next = samples[samples.indexOf(sample) + move];
            if (next) {
                const newest = run === runs.data.curves && next === samples[samples.length - 1];
                runs.set({ step: newest ? null : next.step });
            }
        }

        popup.addEventListener("keydown", (event) => {
            const along = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
            const across = { ArrowUp: -1, ArrowDown: 1 }[event.key];
            if (along) {
                step(along);
            } else if (across) {
                const count = shownNow().length;
                at = (at + across + count) % count;
                show();
            } else {
                return;
            }
            event.preventDefault();
        });
        close.addEventListener("click", () => popup.close());
        popup.addEventListener("close", () => {
            runs.listeners.delete(show);
            parts.big.children[index]?.querySelector("button").focus({ preventScroll: true });
        });
        runs.listeners.add(show);
        show();
        blocktrain.openDialog(popup);
    }

    // --- the log ----------------------------------------------------------------------------------------------------

    function log(list) {
        const { made } = runs;
        const events = runs.data.events || [];
        if (list.drawnFrom === events) {
            return;
        }
        list.drawnFrom = events;
        list.replaceChildren(...events.map(({ step, text, time }) => {
            const when = made("time", { textContent: time ? clock(time) : `step ${step}`, title: `step ${step}` });
            return made("li", { className: /^Failed/.test(text) ? "blocktrain-is-bad" : "" }, when, made("span", { textContent: time ? `${text} · step ${step}` : text }));
        }));
        list.parentElement.hidden = !events.length;
    }

    function clock(seconds) {
        const then = new Date(seconds * 1000);
        const time = then.toLocaleTimeString("en-GB");
        return then >= new Date().setHours(0, 0, 0, 0) ? time : `${then.toLocaleDateString("en", { day: "numeric", month: "short" })} ${time}`;
    }

    blocktrain.runSamples = (view) => {
        runs = blocktrain.runs;
        const { made } = runs;
        const latest = made("button", { type: "button", className: "blocktrain-btn blocktrain-link", textContent: "Latest" });
        latest.title = "Follow the newest step";
        latest.addEventListener("click", () => runs.set({ step: null }));
        const group = made("span", { className: "blocktrain-seg" });
        group.setAttribute("role", "group");
        group.setAttribute("aria-label", "Prompt");
        const head = made("div", { className: "blocktrain-sec-h" }, made("h2", { textContent: "Sample" }), latest, made("span", { className: "blocktrain-sp" }), group);
        parts = {
            latest,
            prompts: group,
            big: made("div", { className: "blocktrain-big" }),
            caption: made("p", { className: "blocktrain-cap" }),
            film: made("div", { className: "blocktrain-film" }),
            none: made("p", { className: "blocktrain-line" }),
        };
        view.querySelector(".blocktrain-sample").append(head, parts.big, parts.caption, parts.film, parts.none);
        runs.listeners.add(draw);
        new ResizeObserver(() => { // also when the place is shown for the first time
            drawn = null;
            draw();
        }).observe(parts.film);
        runs.listeners.add(() => log(view.querySelector(".blocktrain-run-log ol")));
    };
})();
