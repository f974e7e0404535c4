// Copy and paste of weights in the "..." menu. The server writes the text; here it goes to the clipboard, and what
// happened is said beside the map's tools. Where a browser allows no copying, the text is shown, selected.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    const MAP = "blocktrain_u_weights";
    const MARK = "#blocktrain=";

    const menu = () => document.getElementById("blocktrain_menu_share");
    const said = (id) => document.querySelector(`#${id} .blocktrain-note`)?.textContent.trim() || "";

    function close() {
        blocktrain.openMenu(menu(), false);
        menu().querySelector("[data-menu]")?.focus();
    }

    // Copies what the server has written in this form, "" where it could not: the menu then shows why.
    blocktrain.share = async (line, form) => {
        const box = menu().querySelector(".blocktrain-share-text");
        box.hidden = true;
        if (!line) {
            return;
        }
        const text = line.startsWith(MARK) ? location.href.split("#")[0] + line : line;
        if (await blocktrain.copy(text)) {
            const note = said("blocktrain_share_message");
            close();
            blocktrain.uMap.say(MAP, [`Copied: ${form}`, note].filter(Boolean).join("; "));
            return;
        }
        box.hidden = false;
        box.querySelector("textarea").value = text;
        box.querySelector("textarea").select();
    };

    // Called after pasted weights were used.
    blocktrain.pasted = () => {
        if (!document.querySelector("#blocktrain_understood .blocktrain-failure")) {
            close();
            blocktrain.uMap.say(MAP, "Pasted");
        }
    };
})();
