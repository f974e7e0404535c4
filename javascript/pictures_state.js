// What the pictures of Preview show of the state: which were drawn with other weights or settings than those that are set
// now, the progress of the one that is drawn, the prompt's tag, and Auto, which draws again when the weights rest.
//
// What is set now is what `remember.js` keeps of the place, in the form in which the server has written it to the pictures.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const PAUSE = 200; // milliseconds between two looks
    const REST = 1000; // milliseconds without a change after which Auto draws
    const WORDS = { prompt: "prompt", negative: "negative prompt", sampler: "sampler", steps: "steps", cfg: "CFG", width: "width", height: "height", seed: "seed" };
    const byId = (name) => document.getElementById(`blocktrain_${name}`);
    const pictures = () => document.querySelector("#blocktrain_pictures .blocktrain-pictures");
    const drawing = () => byId("status")?.querySelector("[data-drawing]");
    const button = (name) => document.querySelector(`button#blocktrain_${name}, #blocktrain_${name} button`);

    const number = (value) => String(Number(value.toFixed(2))).replace("-", "−");
    const same = (a, b) => (typeof a === "number" && typeof b === "number" ? Math.abs(a - b) < 1e-6 : (a ?? "") === (b ?? ""));

    // What has changed since: { weights: ["IN08 −0.4", "OUT03.attn2=0"], loras: ["strength 0.8"], settings: ["prompt"] }.
    function changes(drawn, now) {
        const found = { weights: [], loras: [], settings: [] };
        found.settings = Object.keys(WORDS).filter((name) => !same(drawn[name], now[name])).map((name) => WORDS[name]);
        const heard = (values) => values.loras.filter((lora) => !lora.muted);
        const before = new Map(heard(drawn).map((lora) => [lora.lora, lora]));
        for (const lora of heard(now)) {
            const old = before.get(lora.lora);
            before.delete(lora.lora);
            if (!old) {
                found.loras.push(`with ${lora.lora}`);
                continue;
            }
            if (!same(old.strength, lora.strength)) {
                found.loras.push(`strength ${number(lora.strength)}`);
            }
            const of = heard(now).length > 1 ? `${lora.lora} ` : "";
            for (const [block, weight] of Object.entries(lora.weights)) {
                if (!same(old.weights[block], weight)) {
                    found.weights.push(`${of}${block} ${number(weight)}`);
                }
            }
            if (!same(old.changes, lora.changes)) { // by kind of layer and over the steps
                found.weights.push(of + (lora.changes || `without ${old.changes}`));
            }
        }
        found.loras.push(...[...before.keys()].map((name) => `without ${name}`));
        return found;
    }

    function words(found) {
        const count = found.weights.length;
        const what = [];
        if (count) {
            what.push(`${count} ${count === 1 ? "weight" : "weights"}`);
        }
        if (found.loras.length) {
            what.push("LoRAs");
        }
        what.push(...found.settings);
        const text = what.length > 3 ? `${what.slice(0, 2).join(", ")} and ${what.length - 2} more` : what.join(", ");
        return text && `${text[0].toUpperCase()}${text.slice(1)} changed since drawn.`;
    }

    // The badges of a picture, in place of the last ones.
    function mark(figure, text) {
        figure.classList.toggle("blocktrain-is-stale", Boolean(text));
        const shot = figure.querySelector(".blocktrain-shot-b");
        let badge = figure.querySelector(".blocktrain-stale-badge");
        if (!text || !shot) {
            badge?.remove();
            return;
        }
        if (!badge) {
            badge = document.createElement("span");
            badge.className = "blocktrain-badge blocktrain-is-warn blocktrain-stale-badge";
            shot.append(badge);
        }
        blocktrain.setText(badge, text);
    }

    const parsed = new WeakMap(); // element -> its values
    let since = 0; // when the values last changed
    let last = "";
    let tried = ""; // the values for which Auto has drawn

    function valuesOf(element) {
        if (!parsed.has(element)) {
            parsed.set(element, element.dataset.values ? JSON.parse(element.dataset.values) : null);
        }
        return parsed.get(element);
    }

    function say(text, details) {
        const line = document.querySelector("#blocktrain_changed .blocktrain-changed");
        if (!line) {
            return;
        }
        const shown = `${text} ${details}`;
        if (line.dataset.shown !== shown) {
            line.dataset.shown = shown;
            const strong = document.createElement("b");
            strong.textContent = text;
            const rest = document.createElement("span");
            rest.textContent = details;
            line.replaceChildren(strong, " ", rest);
            line.title = details;
        }
        line.hidden = !text;
        // the line of the last drawing's end makes room; an error and progress stay
        const ended = byId("status")?.querySelector("[data-ended]");
        const wait = Boolean(text) && !byId("status")?.querySelector(".blocktrain-failure, [data-drawing]");
        byId("bar_preview")?.classList.toggle("blocktrain-is-changed", wait && Boolean(ended));
    }

    function look() {
        negative();
        blocktrain.lookAtSeed?.();
        live();
        const shown = pictures();
        const busy = Boolean(button("cancel") && !button("cancel").disabled);
        if (!shown || !byId("place_preview")) {
            return;
        }
        progress(shown);
        tag(shown);
        const drawn = valuesOf(shown);
        const now = blocktrain.recall?.("preview");
        if (!drawn || !now?.loras || busy) {
            say("", "");
            return;
        }
        const was = String(now.seed) === shown.dataset.seed ? { ...drawn, seed: now.seed } : drawn; // the one for -1, kept
        const found = changes(was, now);
        const settings = found.settings.length ? `${found.settings.join(", ")} changed` : "";
        const loras = found.loras.length ? "LoRAs changed" : "";
        const count = found.weights.length;
        const weights = count ? `${count} ${count === 1 ? "weight" : "weights"} changed` : "";
        for (const figure of shown.querySelectorAll("figure[data-arm]")) {
            const text = { without: settings, "at-1": settings || loras, weights: settings || loras || weights }[figure.dataset.arm];
            mark(figure, text || "");
        }
        const text = words(found);
        const details = [...found.weights, ...found.loras];
        say(text, details.slice(0, 6).join(", ") + (details.length > 6 ? " …" : ""));
        automatic(JSON.stringify(now), text);
    }

    function automatic(now, changed) {
        if (now !== last) {
            [last, since] = [now, Date.now()];
        }
        const wanted = document.querySelector("#blocktrain_auto input")?.checked;
        if (wanted && changed && tried !== now && Date.now() - since >= REST && !document.querySelector("dialog[open]")) {
            tried = now;
            button("draw")?.click();
        }
    }

    // The bar on the picture that is drawn, and its step.
    function progress(shown) {
        const report = drawing();
        const figure = shown.querySelector("figure.blocktrain-is-busy");
        if (!figure) {
            return;
        }
        const here = report && report.dataset.drawing === figure.dataset.number;
        const [done, steps] = here ? [Number(report.dataset.done), Number(report.dataset.steps)] : [0, 1];
        let line = figure.querySelector(".blocktrain-shot-p");
        if (!line) {
            line = document.createElement("span");
            line.className = "blocktrain-shot-p";
            line.append(document.createElement("i"));
            figure.querySelector(".blocktrain-shot-b, .blocktrain-shot-hold").append(line);
        }
        line.firstChild.style.width = `${(100 * done) / Math.max(1, steps)}%`;
        const under = figure.querySelector("figcaption small");
        const text = here ? `step ${done} of ${steps}` : "waiting";
        blocktrain.setText(under, text);
    }

    // The live picture over the place of the one that is drawn.
    function live() {
        const sent = document.querySelector("#blocktrain_live img[data-live]");
        const figure = sent && document.querySelector(`#blocktrain_${sent.dataset.live} figure[data-number="${sent.dataset.number}"]`);
        const place = figure?.querySelector(figure.matches(".blocktrain-is-busy") ? ".blocktrain-shot-b, .blocktrain-shot-hold" : ".blocktrain-cell .blocktrain-ph");
        if (!place) {
            return;
        }
        let image = place.querySelector(".blocktrain-live");
        if (!image) {
            image = document.createElement("img");
            image.className = "blocktrain-live";
            image.alt = "";
            place.prepend(image);
        }
        if (image.src !== sent.src) {
            image.src = sent.src;
        }
    }

    // What the folded negative prompt says, beside its name.
    function negative() {
        const name = byId("negative_fold")?.querySelector(".label-wrap > span:not(.icon)");
        const text = byId("negative")?.querySelector("textarea, input")?.value.trim() || "";
        if (name && name.dataset.said !== text) {
            name.dataset.said = text;
        }
    }

    function tag(shown) {
        const line = document.querySelector("#blocktrain_tag_line .blocktrain-tagline");
        if (line) {
            const text = shown.dataset.tag || "";
            const code = line.querySelector("code");
            if (code.textContent !== text) {
                code.textContent = text;
                code.title = text;
            }
            line.hidden = !text;
        }
    }

    document.addEventListener("click", async (event) => {
        const target = event.target.closest?.("#blocktrain [data-copy-tag], #blocktrain [data-draw-at], #blocktrain [data-use-cell]");
        if (!target) {
            return;
        }
        if (target.matches("[data-copy-tag]")) {
            const copied = await blocktrain.copy(document.querySelector("#blocktrain_tag_line code").textContent);
            const word = target.querySelector("span");
            word.textContent = copied ? "Copied" : "Not copied";
            setTimeout(() => (word.textContent = "Copy"), 1500);
        } else if (target.matches("[data-draw-at]")) {
            const [width, height] = target.dataset.drawAt.split("x");
            for (const [name, value] of [["width", width], ["height", height]]) {
                const input = document.querySelector(`#blocktrain_${name} input`);
                input.value = value;
                input.dispatchEvent(new Event("input", { bubbles: true }));
            }
            setTimeout(() => button("draw").click(), 100);
        } else {
            ask({ do: "use", values: JSON.parse(target.dataset.useCell) });
        }
    });

    // Asks the server (ui/picture_requests.py), one request after another. Of several that bring pictures back, the last
    // counts.
    const BACK = ["restore", "pictures"];
    const requests = []; // the first one is on its way
    let count = 0;
    let stop = () => {}; // ends the asking

    function ask(request) {
        if (BACK.includes(request.do)) {
            requests.splice(1, requests.length, ...requests.slice(1).filter((other) => !BACK.includes(other.do)));
        }
        requests.push({ ...request, number: ++count });
        if (requests.length === 1) {
            send();
        }
    }

    function send() {
        stop();
        if (requests.length) {
            stop = blocktrain.untilAnswered(put);
        }
    }

    function put() {
        const field = document.querySelector("#blocktrain_pictures_ask textarea, #blocktrain_pictures_ask input");
        field.value = JSON.stringify(requests[0]);
        field.dispatchEvent(new Event("input", { bubbles: true }));
        setTimeout(() => button("pictures_answer").click(), 30); // gradio takes the value over first
    }

    (blocktrain.components ||= new Map()).set("blocktrain-pictures-answered", (element) => {
        if (Number(element.dataset.number) === requests[0]?.number) {
            requests.shift();
            stop();
            setTimeout(send); // when gradio has done with this one
        }
    });

    setInterval(look, PAUSE);
    blocktrain.pictures = Object.assign(blocktrain.pictures || {}, { ask, changes });
})();
