// The pictures of Preview: side by side, swiped, as their difference, or as a grid; and one of them large, in a dialog.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const section = () => document.getElementById("blocktrain_section_pictures");

    const made = (...given) => blocktrain.made(...given);

    // --- views ------------------------------------------------------------------------------------------------------

    const view = () => section()?.dataset.view || "side";

    function show(name) {
        const place = section();
        if (!place) {
            return;
        }
        place.dataset.view = name;
        for (const button of place.querySelectorAll("[data-view-to]")) {
            button.setAttribute("aria-pressed", String(button.dataset.viewTo === name));
        }
        document.dispatchEvent(new CustomEvent("blocktrain:view", { detail: name }));
    }

    document.addEventListener("click", (event) => {
        const button = event.target.closest?.("#blocktrain [data-view-to]");
        if (button) {
            show(button.dataset.viewTo);
            return;
        }
        const shot = event.target.closest?.("#blocktrain_section_pictures .blocktrain-shot-b");
        if (shot) {
            zoom(shot);
        }
    });

    // Of the grid's fields those that belong to what it goes over.
    const OVER = { presets: ["grid_presets"], "one block": ["grid_block", "grid_values"], strength: ["grid_values"], seed: ["grid_values"], LoRA: [] };

    function showFields() {
        const over = document.querySelector("#blocktrain_grid_over input:checked")?.value;
        for (const name of over in OVER ? ["grid_presets", "grid_block", "grid_values"] : []) {
            const field = document.getElementById(`blocktrain_${name}`);
            const hidden = !OVER[over].includes(name);
            if (field && field.classList.contains("blocktrain-unseen") !== hidden) {
                field.classList.toggle("blocktrain-unseen", hidden);
            }
        }
    }

    (blocktrain.pageChanged ||= new Set()).add(showFields);
    setInterval(showFields, 300); // gradio sets the value of a chosen option without an event

    // --- one picture, large -----------------------------------------------------------------------------------------

    let open = null; // { dialog, image, title, shots, at, other }

    function title(shot) {
        return shot.closest("figure").querySelector("figcaption b").textContent;
    }

    function put(shot) {
        const image = shot.querySelector("img");
        open.image.src = image.src;
        open.image.alt = image.alt;
        open.title.textContent = title(shot);
    }

    function step(by) {
        open.at = (open.at + by + open.shots.length) % open.shots.length;
        put(open.shots[open.at]);
        fillOthers();
    }

    // A/B: while the button or B is held, the other picture is shown in the same place.
    function hold(held) {
        if (open && open.held !== held && open.shots.length > 1) {
            open.held = held;
            put(held ? open.shots[Number(open.other.value)] : open.shots[open.at]);
            open.dialog.classList.toggle("blocktrain-is-held", held);
        }
    }

    function fillOthers() {
        const options = open.shots.map((shot, n) => made("option", { value: String(n), textContent: title(shot) }));
        const wanted = open.at === open.shots.length - 1 ? open.at - 1 : open.shots.length - 1;
        open.other.replaceChildren(...options.filter((_, n) => n !== open.at));
        open.other.value = String(Math.max(0, wanted));
    }

    function button(text, label, click) {
        const element = made("button", { type: "button", className: "blocktrain-btn", textContent: text });
        element.setAttribute("aria-label", label);
        if (click) {
            element.addEventListener("click", click);
        }
        return element;
    }

    function zoom(shot) {
        const all = [...shot.closest(".blocktrain-pictures").querySelectorAll(".blocktrain-shot-b")];
        const dialog = made("dialog", { className: "blocktrain-zoomed" });
        dialog.setAttribute("aria-label", "Picture");
        const image = made("img", {});
        const heading = made("b", {});
        heading.setAttribute("role", "status");
        const other = made("select", { className: "blocktrain-in" });
        other.setAttribute("aria-label", "The other picture");
        const flicker = button("A/B (hold B)", "Hold to see the other picture");
        flicker.addEventListener("pointerdown", () => hold(true));
        for (const end of ["pointerup", "pointerleave", "pointercancel"]) {
            flicker.addEventListener(end, () => hold(false));
        }
        const close = button("Close", "Close", () => dialog.close());
        const tools = made("div", { className: "blocktrain-zoomed-tools" }, heading, made("span", { className: "blocktrain-sp" }));
        if (all.length > 1) {
            tools.append(button("←", "Previous picture", () => step(-1)), button("→", "Next picture", () => step(1)), flicker, other);
        }
        tools.append(close);
        dialog.append(image, tools);
        open = { dialog, image, title: heading, shots: all, at: all.indexOf(shot), other, held: false };
        put(shot);
        fillOthers();
        image.addEventListener("click", () => dialog.close());
        dialog.addEventListener("keydown", (event) => {
            const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
            if (by && event.target !== other) {
                event.preventDefault();
                step(by);
            } else if (event.key.toLowerCase() === "b") {
                hold(true);
            }
        });
        dialog.addEventListener("keyup", (event) => event.key.toLowerCase() === "b" && hold(false));
        dialog.addEventListener("close", () => {
            open = null;
            (shot.isConnected ? shot : document.querySelector("#blocktrain_pictures .blocktrain-shot-b"))?.focus();
        });
        blocktrain.openDialog(dialog);
    }

    (blocktrain.shortcuts ||= []).push(["B", "In a large picture: hold to see the other one"]);
    blocktrain.pictures = Object.assign(blocktrain.pictures || {}, { view, show, made });
})();
