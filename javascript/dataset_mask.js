// Painting a picture's mask in Pictures: over the large picture, on what it has already; saved as one change.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const dataset = (blocktrain.pictureSets ||= {});

    // The painter over the picture in `frame`, and what stands below it.
    function maskPainter(frame, one) {
        const { made } = blocktrain;
        const { state } = dataset;
        const image = frame.querySelector("img");
        const save = made("button", { type: "button", className: "blocktrain-btn blocktrain-is-strong", textContent: "Save the mask", disabled: true });
        const element = made("div", { className: "blocktrain-painter-own" });
        const painter = new blocktrain.MaskPainter(element, {
            image,
            size: fitted(one.width, one.height, 768),
            erases: true,
            changed: (strokes) => (save.disabled = !strokes.length),
        });
        if (one.mask && one.mask !== "alpha") {
            dataset.attempt(async () => {
                const { mask } = await dataset.ask("mask", { set: state.set, picture: one.picture });
                mask && (await painter.begins(mask));
            });
        }
        save.addEventListener("click", () =>
            dataset.attempt(async () => {
                const asked = { set: state.set, picture: one.picture, png: painter.png() };
                const { change } = await dataset.ask("paint", asked);
                await dataset.reload();
                dataset.did(change, `Mask of ${one.name} saved.`);
            }, "Saving the mask …")
        );
        const remove = made("button", { type: "button", className: "blocktrain-btn", textContent: "Remove the mask", hidden: !one.mask || one.mask === "alpha" });
        remove.addEventListener("click", () =>
            dataset.attempt(async () => {
                const { change } = await dataset.ask("unmask", { set: state.set, picture: one.picture });
                await dataset.reload();
                dataset.did(change, `Mask of ${one.name} removed.`);
            }, "Removing the mask …")
        );
        const found = made("div", {});
        const from = wordForm(one, found, async (mask) => {
            await painter.begins(mask);
            save.disabled = false;
        });
        const foot = made("p", { className: "blocktrain-foot", textContent: "Paint where the loss counts: what is not painted does not." });
        return [element, made("div", { className: "blocktrain-dataset-mask" }, save, remove), from, found, foot];
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

    Object.assign(dataset, { maskPainter });
})();
