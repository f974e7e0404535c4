// What the tab does in the page. The WebUI loads this file by itself; the standalone server puts it into the page.
(() => {
    "use strict";

    // Without a secure context (a WebUI reached by http in a network) there is no clipboard: the line is selected
    // in its box then, so that Ctrl+C takes it.
    function copy(text) {
        if (navigator.clipboard) {
            return navigator.clipboard.writeText(text).catch(selectLine);
        }
        return Promise.resolve(selectLine());
    }

    function selectLine() {
        const root = typeof gradioApp === "function" ? gradioApp() : document;
        const box = root.querySelector("#blocktrain_line textarea, #blocktrain_line input");
        if (box) {
            box.focus();
            box.select();
        }
    }

    window.blocktrain = { copy };
})();
