"use strict";

// Each Mermaid block is drawn below its text, in the colours of the theme that the reader has chosen. The script of
// Mermaid is loaded beside this one, and has arrived when the window's load event comes (mermaid_blocks.py).
window.addEventListener("load", () => {
  if (typeof mermaid === "undefined") return; // it did not arrive: the text is there
  const system = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => {
    const chosen = document.body.dataset.theme;
    return chosen === "dark" || (chosen !== "light" && system.matches) ? "dark" : "light";
  };

  // The colours of the page. Mermaid computes the others of a diagram from them.
  const configure = (name) => {
    const style = getComputedStyle(document.body);
    const colour = (of) => style.getPropertyValue(`--color-${of}`).trim();
    const [ink, page, box] = [colour("foreground-primary"), colour("background-primary"), colour("code-background")];
    const line = colour("foreground-secondary");
    mermaid.initialize({
      startOnLoad: false,
      securityLevel: "strict",
      suppressErrorRendering: true,
      theme: "base",
      fontFamily: style.fontFamily,
      state: { useMaxWidth: false }, // on a phone the letters keep their size, and the drawing scrolls
      themeVariables: {
        darkMode: name === "dark",
        background: page,
        primaryColor: box,
        primaryTextColor: ink,
        primaryBorderColor: line,
        secondaryColor: page,
        tertiaryColor: page,
        lineColor: line,
        textColor: ink,
        edgeLabelBackground: page,
        labelBackgroundColor: page,
        transitionColor: line,
        transitionLabelColor: ink,
        stateLabelColor: ink,
        specialStateColor: line,
        innerEndBackground: line,
      },
    });
  };

  const blocks = [...document.querySelectorAll(".highlight-mermaid")].map((block) => {
    const drawing = document.createElement("div");
    drawing.className = "mermaid-drawing";
    drawing.setAttribute("role", "img");
    drawing.setAttribute("aria-label", "The Mermaid text above as a diagram");
    return { block, drawing, text: block.querySelector("pre").textContent };
  });

  const draw = async () => {
    const name = theme();
    configure(name);
    for (const [number, { block, drawing, text }] of blocks.entries()) {
      if (drawing.dataset.theme === name) continue;
      drawing.innerHTML = (await mermaid.render(`mermaid-${number}`, text)).svg;
      drawing.dataset.theme = name;
      block.after(drawing);
      // Who has only a keyboard scrolls it, too.
      if (drawing.scrollWidth > drawing.clientWidth) drawing.tabIndex = 0;
    }
  };

  // One after the other: the colours are the same for a whole drawing.
  let last = Promise.resolve();
  const drawNext = () => { last = last.then(draw); };
  new MutationObserver(drawNext).observe(document.body, { attributeFilter: ["data-theme"] });
  system.addEventListener("change", drawNext);
  drawNext();
});
