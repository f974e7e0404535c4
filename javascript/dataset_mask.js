// Painting a picture's mask in Pictures: over the large picture, on what it has already; saved as one change. What is not saved
// stays, whatever else is shown meanwhile, and over a reload.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});

    const MOST = 400000; // characters of all masks that are kept over a reload
    let masks = null; // by set and picture: {strokes, found}, what is not saved; `found` is a mask from a word, or null

    const keyOf = (one) => JSON.stringify([dataset.state.set, one.picture]);
    const holds = (kept) => Boolean(kept && (kept.strokes.length || kept.found));
    // Whether a picture has a mask that is painted, or found, and not saved.
    const isPainted = (one) => holds(painted().get(keyOf(one)));

    function painted() {
        if (masks === null) {
            const stored = blocktrain.recall?.("dataset-masks");
            masks = new Map(Object.entries(stored && typeof stored === "object" ? stored : {}).filter(([, kept]) => isMask(kept)));
        }
        return masks;
    }

    // What an older page or anything else has stored there is left out.
    function isMask(kept) {
        const isStroke = (stroke) => Array.isArray(stroke) && stroke.every(Number.isFinite);
        const isFound = kept?.found === null || /^data:image\/png;base64,/.test(kept?.found);
        return isFound && Array.isArray(kept.strokes) && kept.strokes.every(isStroke);
    }

    // The last ones of what can be kept.
    function remember() {
        let left = MOST;
        const last = [...painted()].reverse().filter(([, kept]) => holds(kept) && (left -= JSON.stringify(kept).length) > 0);
        blocktrain.remember?.("dataset-masks", last.length ? Object.fromEntries(last.reverse()) : undefined);
    }

    // The painter over the picture in `frame`, and what stands below it. What is not saved is there again.
    function maskPainter(frame, one) {
        const { made } = blocktrain;
        const { set } = dataset.state;
        const kept = painted().get(keyOf(one)) || { strokes: [], found: null };
        painted().set(keyOf(one), kept);
        let held = holds(kept);
        const button = (label, run) => {
            const made_ = made("button", { type: "button", className: "blocktrain-btn", textContent: label });
            made_.addEventListener("click", run);
            return made_;
        };
        const save = button("Save the mask", () => saveMask(set, one, painter, kept));
        save.classList.add("blocktrain-is-strong");
        const discard = button("Discard", () => {
            kept.found = null;
            painter.replace([]);
            begin();
        });
        discard.title = "The mask as it is saved";
        const changed = () => {
            save.disabled = discard.hidden = !holds(kept);
            remember();
            if (held !== holds(kept)) {
                held = !held;
                dataset.set({}); // the grid says which masks are not saved
            }
        };
        const element = made("div", { className: "blocktrain-painter-own" });
        const painter = new blocktrain.MaskPainter(element, {
            image: frame.querySelector("img"),
            size: fitted(one.width, one.height, 768),
            erases: true,
            strokes: kept.strokes,
            changed: (strokes) => {
                kept.strokes = strokes;
                changed();
            },
        });
        const begin = () =>
            dataset.attempt(async () => {
                const own = one.mask && one.mask !== "alpha";
                await painter.begins(kept.found || (own ? (await dataset.ask("mask", { set, picture: one.picture })).mask : null));
            });
        begin();
        const remove = button("Remove the mask", () => removeMask(set, one, kept));
        remove.hidden = !one.mask || one.mask === "alpha";
        const found = made("div", {});
        const from = wordForm(one, found, async (mask) => {
            kept.found = mask;
            changed();
            await painter.begins(mask);
        });
        const foot = made("p", { className: "blocktrain-foot", textContent: "Paint where the loss counts: what is not painted does not." });
        return [element, made("div", { className: "blocktrain-dataset-mask" }, save, discard, remove), from, found, foot];
    }

    // What is painted meanwhile stays, and is not saved.
    function saveMask(set, one, painter, kept) {
        return dataset.attempt(async () => {
            const [png, saved] = [painter.png(), [...painter.strokes]];
            const { change } = await dataset.ask("paint", { set, picture: one.picture, png });
            kept.found = null;
            await painter.begins(png);
            painter.replace(painter.strokes.filter((stroke) => !saved.includes(stroke)));
            await dataset.reload();
            dataset.did(change, `Mask of ${one.name} saved.`);
        }, "Saving the mask …");
    }

    function removeMask(set, one, kept) {
        return dataset.attempt(async () => {
            const { change } = await dataset.ask("unmask", { set, picture: one.picture });
            Object.assign(kept, { strokes: [], found: null });
            remember();
            await dataset.reload();
            dataset.did(change, `Mask of ${one.name} removed.`);
        }, "Removing the mask …");
    }

    // "Mask from a word": where the model sees it is shown in the painter, to be painted on and saved.
    function wordForm(one, place, show) {
        const { made } = blocktrain;
        const word = made("input", { type: "text", className: "blocktrain-in", name: "word", placeholder: "hat", autocomplete: "off", maxLength: 200 });
        const find = made("button", { type: "submit", className: "blocktrain-btn", textContent: "Find" });
        const label = made("label", { className: "blocktrain-f" }, made("span", { textContent: "Mask from a word" }), word);
        const form = made("form", { className: "blocktrain-dataset-word" }, label, find);
        const said = (text, className) => place.replaceChildren(made("p", { className, textContent: text }));
        form.addEventListener("submit", async (event) => {
            event.preventDefault();
            if (!word.value.trim()) {
                word.focus();
                return;
            }
            find.disabled = true;
            try {
                const asked = { set: dataset.state.set, picture: one.picture, word: word.value };
                const found = await dataset.job(place, `Looking for “${word.value.trim()}”`, "find mask", asked);
                if (found) {
                    await show(found.mask);
                    said(`“${word.value.trim()}” covers ${Math.round(100 * found.share)} % of the picture. Paint on it, or save it.`, "blocktrain-note");
                }
            } catch (error) {
                said(error.message, "blocktrain-failure");
            }
            find.disabled = false;
        });
        return form;
    }

    // The size of this aspect whose longer side is `most`.
    function fitted(width, height, most) {
        const scale = most / Math.max(width, height);
        return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    }

    Object.assign(dataset, { isPainted, maskPainter });
})();
