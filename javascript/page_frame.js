// The frame of the page: the places in the header, the segments of a place on a phone, menus, keyboard shortcuts, and
// what a sticky header needs from the host's elements around it. gradio's own tabs are hidden and keep the state.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const NAV = "#blocktrain_places > .tab-nav";

    // --- places -----------------------------------------------------------------------------------------------------

    const tabs = () => [...document.querySelectorAll("#blocktrain_place_tabs [role=tab]")];
    const ownTab = (tab) =>
        [...document.querySelectorAll(`${NAV} > button`)].find(
            (button) => blocktrain.localized(button.textContent.trim()) === blocktrain.localized(tab.textContent.trim())
        );

    // The name of the place that is shown, such as "preview".
    function place() {
        return tabs().find((tab) => ownTab(tab)?.classList.contains("selected"))?.dataset.place || null;
    }

    function go(name) {
        const tab = tabs().find((candidate) => candidate.dataset.place === name);
        if (tab) {
            ownTab(tab)?.click();
        }
    }

    let shown = null;

    // Show in the header which of gradio's tabs is selected.
    function mark() {
        const now = place();
        if (!now || now === shown) {
            return;
        }
        const first = shown === null;
        shown = now;
        for (const tab of tabs()) {
            const selected = tab.dataset.place === now;
            tab.setAttribute("aria-selected", String(selected));
            tab.tabIndex = selected ? 0 : -1;
            const panel = document.getElementById(`blocktrain_place_${tab.dataset.place}`);
            panel?.setAttribute("role", "tabpanel");
            panel?.setAttribute("aria-labelledby", tab.id);
        }
        if (!first) {
            toTop();
        }
        document.dispatchEvent(new CustomEvent("blocktrain:place", { detail: now }));
    }

    function toTop() {
        const root = document.getElementById("blocktrain");
        if (root && root.getBoundingClientRect().top < 0) {
            root.scrollIntoView({ block: "start" });
        }
    }

    blocktrain.components ||= new Map();
    blocktrain.components.set("blocktrain-tabs", (list) => {
        list.addEventListener("click", (event) => {
            const tab = event.target.closest("[role=tab]");
            if (tab) {
                go(tab.dataset.place);
            }
        });
        list.addEventListener("keydown", (event) => {
            const all = tabs();
            const at = all.indexOf(document.activeElement);
            const to = { ArrowRight: at + 1, ArrowLeft: at - 1 + all.length, Home: 0, End: all.length - 1 }[event.key];
            if (at >= 0 && to !== undefined) {
                event.preventDefault();
                const tab = all[to % all.length];
                tab.focus();
                go(tab.dataset.place);
            }
        });
        mark();
    });

    // --- segments ---------------------------------------------------------------------------------------------------

    function showPart(segs, name) {
        const panel = segs.closest("[id^=blocktrain_place_]");
        panel.dataset.part = name;
        for (const button of segs.querySelectorAll("[data-segment]")) {
            button.setAttribute("aria-pressed", String(button.dataset.segment === name));
        }
    }

    blocktrain.components.set("blocktrain-segs", (segs) => {
        const panel = segs.closest("[id^=blocktrain_place_]");
        showPart(segs, panel.dataset.part || segs.querySelector("[aria-pressed=true]").dataset.segment);
        segs.addEventListener("click", (event) => {
            const button = event.target.closest("[data-segment]");
            if (button) {
                showPart(segs, button.dataset.segment);
                toTop();
            }
        });
    });

    // Show a part of a place; of use where only one is shown at a time.
    function segment(placeName, name) {
        const segs = document.querySelector(`#blocktrain_place_${placeName} .blocktrain-segs`);
        if (segs?.querySelector(`[data-segment="${name}"]`)) {
            showPart(segs, name);
        }
    }

    // --- menus ------------------------------------------------------------------------------------------------------

    const openMenus = () => document.querySelectorAll("#blocktrain .blocktrain-menu:is([data-open], [open])");

    // Open or close a menu: an element of the class blocktrain-menu, either <details> or made by `frame.menu`.
    function openMenu(menu, open) {
        if (menu.matches("details")) {
            menu.open = open;
            return;
        }
        menu.toggleAttribute("data-open", open);
        menu.querySelector("[data-menu]")?.setAttribute("aria-expanded", String(open));
        if (open) {
            menu.querySelector(".blocktrain-pop")?.querySelector("input, textarea, button, [tabindex='0']")?.focus();
        }
    }

    document.addEventListener("click", (event) => {
        const button = event.target.closest?.("#blocktrain [data-menu]");
        const own = event.target.closest?.(".blocktrain-menu");
        // Not the clicks of scripts, which ask the server for what is new.
        for (const menu of event.isTrusted ? openMenus() : []) {
            if (menu !== own && !menu.contains(event.target) && document.contains(event.target)) {
                openMenu(menu, false);
            }
        }
        if (button && own) {
            openMenu(own, !own.hasAttribute("data-open"));
        }
    });

    document.addEventListener(
        "keydown",
        (event) => {
            if (event.key !== "Escape") {
                return;
            }
            for (const menu of openMenus()) {
                openMenu(menu, false);
                menu.querySelector("[data-menu], summary")?.focus();
                event.stopPropagation();
            }
        },
        true
    );

    // --- keyboard ---------------------------------------------------------------------------------------------------

    // The button that Ctrl+Enter presses: of a dialog, if one is open, else of the place's bar. gradio keeps hidden buttons.
    function inFront() {
        const dialog = document.querySelector("dialog[open]");
        const all = dialog ? ".blocktrain-is-primary" : `#blocktrain_bar_${place()} button.primary`;
        return [...(dialog || document).querySelectorAll(all)].find((button) => button.offsetParent !== null && !button.disabled);
    }

    // Whether or not its default was prevented: some hosts prevent it in all of their tabs.
    document.addEventListener("keydown", (event) => {
        const root = document.getElementById("blocktrain");
        if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.repeat || !root || root.offsetParent === null) {
            return;
        }
        const button = inFront();
        if (button) {
            event.preventDefault();
            document.activeElement?.blur?.(); // so that a number that was just typed counts
            setTimeout(() => button.click(), 50);
        }
    });

    // --- the elements around ----------------------------------------------------------------------------------------

    // A sticky element needs ancestors that do not clip. Only while the page is shown, since the host's other tabs share
    // some of them.
    function unclip() {
        const root = document.getElementById("blocktrain");
        if (!root) {
            return;
        }
        const visible = root.offsetParent !== null;
        for (let above = root.parentElement; above && above !== document.body; above = above.parentElement) {
            if (above.classList.contains("blocktrain-above") !== visible) {
                above.classList.toggle("blocktrain-above", visible);
            }
        }
    }

    (blocktrain.pageChanged ||= new Set()).add(mark);
    (blocktrain.pageSettled ||= new Set()).add(unclip);
    document.addEventListener("click", () => setTimeout(unclip), true);

    Object.assign(blocktrain, { place, go, segment, openMenu });
})();
