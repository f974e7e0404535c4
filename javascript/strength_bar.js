// Analyse's strength as a bar from 0, like the weights: style.css draws it from what this script sets on the slider.
(() => {
    "use strict";

    const blocktrain = (window.blocktrain = Object.hasOwn(window, "blocktrain") ? window.blocktrain : {});
    let link = null;
    let drawn = null;

    function draw() {
        const input = link.input("strength");
        if (!input) {
            return;
        }
        const [low, high] = link.range();
        const value = Number(input.value);
        const at = (place) => ((place - low) / (high - low)).toFixed(4);
        input.style.setProperty("--blocktrain-from", at(Math.min(0, value)));
        input.style.setProperty("--blocktrain-to", at(Math.max(0, value)));
        input.closest(".block").classList.toggle("blocktrain-is-minus", value < 0);
        drawn = input;
    }

    (blocktrain.pageChanged ||= new Set()).add(() => {
        link ||= new blocktrain.SliderLink("blocktrain_analyse_", ["strength"], draw);
        if (link.input("strength") !== drawn) { // gradio has just added it, or replaced it
            draw();
        }
    });
})();
