// The menu of presets above the map: what the weights came from and how many have changed since, a list to search, and
// the way back. Saving, renaming, deleting, import and export are the page's own buttons, which ask the server. The list
// is made from the cards, so that there is one source for both.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const MAP = "blocktrain_u_weights";
    const NONE = "Own weights";

    const map = () => blocktrain.uMap.find(MAP);
    const menu = () => document.getElementById("blocktrain_menu_presets");

    // Called by the map at each draw.
    function draw(drawn) {
        const holder = menu();
        const base = drawn.element.id === MAP && holder ? blocktrain.presetBase.of(drawn) : null;
        if (!base) {
            return;
        }
        const count = blocktrain.presetBase.count(drawn);
        const own = blocktrain.presetBase.presets().some((preset) => preset.own && preset.name === base.name);
        blocktrain.setText(holder.querySelector(".blocktrain-preset-name"), base.name || NONE);
        blocktrain.setText(holder.querySelector(".blocktrain-preset-changed"), count ? `${count} changed` : "");
        const back = holder.querySelector("[data-preset-do=back]");
        blocktrain.setText(back, `Back to ${base.name || "the weights as loaded"}`);
        back.disabled = !count;
        for (const [name, words, off] of [
            ["over", `Save over ${own ? base.name : "a preset of yours"}`, !own || !count],
            ["rename", "Rename", !own],
            ["delete", "Delete", !own],
        ]) {
            const button = document.querySelector(`button#blocktrain_preset_${name}, #blocktrain_preset_${name} button`);
            if (button) {
                blocktrain.setText(button, words);
                button.disabled = off;
            }
        }
        const subject = drawn.element.dataset.subject;
        blocktrain.setText(document.querySelector("#blocktrain_weights_of"), subject || "no LoRA yet");
    }

    function item(preset) {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "blocktrain-mi";
        button.dataset.preset = preset.name;
        button.dataset.words = preset.words;
        const [name, purpose, text] = ["b", "small", "span"].map((tag) => document.createElement(tag));
        name.textContent = preset.name;
        purpose.textContent = [preset.own && "yours", preset.purpose].filter(Boolean).join(" · ");
        text.append(name, purpose);
        const picture = preset.picture.cloneNode(true);
        picture.setAttribute("aria-hidden", "true");
        button.append(picture, text);
        return button;
    }

    function list() {
        const presets = blocktrain.presetBase.presets();
        const holder = document.querySelector(".blocktrain-preset-list");
        if (!holder) {
            return;
        }
        holder.querySelector("div").replaceChildren(...presets.map(item));
        const own = presets.filter((preset) => preset.own).length;
        holder.querySelector("input").placeholder = `${presets.length} presets, ${own} yours: name, purpose, block`;
        search(holder);
    }

    const items = (holder) => [...holder.querySelectorAll(".blocktrain-mi[data-preset]:not([hidden])")];

    function search(holder) {
        const words = holder.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
        for (const button of holder.querySelectorAll(".blocktrain-mi[data-preset]")) {
            button.hidden = !words.every((word) => button.dataset.words.includes(word));
        }
        holder.querySelector("[role=status]").textContent = items(holder).length ? "" : "No preset has these words";
    }

    function use(name) {
        const preset = blocktrain.presetBase.presets().find((known) => known.name === name);
        blocktrain.uMap.apply(MAP, preset);
        blocktrain.openMenu(menu(), false);
        menu().querySelector("[data-menu]").focus();
    }

    function back() {
        blocktrain.uMap.apply(MAP, blocktrain.presetBase.of(map()));
        blocktrain.openMenu(menu(), false);
    }

    // Opens a folded part of the pane and shows it.
    function unfold(id) {
        const part = document.getElementById(id);
        const label = part?.querySelector(".label-wrap");
        if (label && !label.classList.contains("open")) {
            label.click();
        }
        document.querySelectorAll("#blocktrain .blocktrain-menu[data-open]").forEach((each) => blocktrain.openMenu(each, false));
        setTimeout(() => part?.scrollIntoView({ block: "nearest" }), 100);
    }

    // What a menu has said is over when it closes: opened again, it would be old. The next button that is pressed there
    // shows it again: the server may answer the same.
    function watch(holder) {
        if (blocktrain.initialised.has(holder)) {
            return;
        }
        blocktrain.initialised.add(holder);
        const show = (yes) => holder.classList.toggle("blocktrain-forgotten", !yes);
        const closed = () => !holder.hasAttribute("data-open") && show(false);
        new MutationObserver(closed).observe(holder, { attributeFilter: ["data-open"] });
        holder.querySelector(".blocktrain-pop").addEventListener("click", (event) => event.target.closest("button") && show(true));
    }

    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-preset-list", (holder) => {
        holder.addEventListener("input", () => search(holder));
        holder.addEventListener("click", (event) => {
            const button = event.target.closest("[data-preset]");
            if (button) {
                use(button.dataset.preset);
            }
        });
        holder.addEventListener("keydown", (event) => {
            const there = items(holder);
            const at = there.indexOf(document.activeElement);
            const to = { ArrowDown: at + 1, ArrowUp: at - 1 }[event.key];
            if (to !== undefined) {
                event.preventDefault();
                (there[to] || holder.querySelector("input")).focus();
            } else if (event.key === "Enter" && at < 0 && there.length) {
                event.preventDefault();
                use(there[0].dataset.preset);
            }
        });
        list();
    });
    blocktrain.components.set("blocktrain-menu-actions", (holder) => {
        holder.addEventListener("click", (event) => {
            const button = event.target.closest("[data-preset-do], [data-unfold]");
            if (button?.dataset.unfold) {
                unfold(button.dataset.unfold);
            } else if (button) {
                back();
            }
        });
    });
    blocktrain.pageChanged ||= new Set();
    blocktrain.pageChanged.add(() => {
        document.querySelectorAll("#blocktrain_menu_presets, #blocktrain_menu_share").forEach(watch);
    });
    blocktrain.presetMenu = { draw, list };
})();
