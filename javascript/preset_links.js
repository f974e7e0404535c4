// A page that is opened with a preset behind its address, `#blocktrain=NAME:1,0,...`, puts it where one pastes: the
// server says what it is understood as, and nothing else happens until somebody uses it.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = window.blocktrain || {});
    const MARK = "#blocktrain=";
    let opened = "";

    // In a WebUI the tab itself is one of many.
    function showTab(box) {
        const panel = box.closest("#tabs > .tabitem");
        const panels = panel ? [...panel.parentElement.children].filter((child) => child.classList.contains("tabitem")) : [];
        panel?.parentElement.querySelectorAll(":scope > .tab-nav > button")[panels.indexOf(panel)]?.click();
    }

    function open() {
        const box = document.querySelector("#blocktrain_paste textarea");
        const loaded = document.querySelector("#blocktrain_loras input");
        if (!box || !loaded || !location.hash.startsWith(MARK) || location.hash === opened) {
            return;
        }
        opened = location.hash;
        showTab(box);
        box.value = opened;
        box.dispatchEvent(new Event("input", { bubbles: true }));
        box.scrollIntoView({ block: "center" });
    }

    blocktrain.pageChanged ||= new Set();
    blocktrain.pageChanged.add(open);
    window.addEventListener("hashchange", open);
})();
