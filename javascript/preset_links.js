// When the page's address ends in `#blocktrain=NAME:1,0,...`, puts that preset into the Paste field: the server shows
// how it is understood, and nothing is applied until the user presses "Use these weights".
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const MARK = "#blocktrain=";
    let opened = "";

    // In a WebUI, shows the tab that an element is in: tabs are named otherwise in a fork or another language.
    blocktrain.showTab = (inside) => {
        const panel = inside?.closest("#tabs > .tabitem");
        const panels = panel ? [...panel.parentElement.children].filter((child) => child.classList.contains("tabitem")) : [];
        panel?.parentElement.querySelectorAll(":scope > .tab-nav > button")[panels.indexOf(panel)]?.click();
    };

    function open() {
        const box = document.querySelector("#blocktrain_paste textarea");
        const loaded = document.querySelector(".blocktrain-cards .blocktrain-card"); // the presets: the server has answered
        if (!box || !loaded || !location.hash.startsWith(MARK) || location.hash === opened) {
            return;
        }
        opened = location.hash;
        blocktrain.showTab(box);
        blocktrain.showPaste(opened);
    }

    // Opens the menu with the Paste field, with a text in it.
    blocktrain.showPaste = (text) => {
        const box = document.querySelector("#blocktrain_paste textarea");
        blocktrain.go("preview");
        blocktrain.segment("preview", "weights");
        blocktrain.openMenu(document.getElementById("blocktrain_menu_share"), true);
        box.value = text;
        box.dispatchEvent(new Event("input", { bubbles: true }));
        box.focus();
        box.scrollIntoView({ block: "nearest" });
    };

    blocktrain.pageChanged ||= new Set();
    blocktrain.pageChanged.add(open);
    window.addEventListener("hashchange", open);
})();
