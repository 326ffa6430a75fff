for (const place of document.querySelectorAll(".compare")) {
  const slider = place.querySelector("input");
  slider.addEventListener("input", () => place.style.setProperty("--at", `${slider.value}%`));
}
for (const choice of document.querySelectorAll(".choice")) {
  const card = choice.closest(".card");
  const buttons = [...choice.querySelectorAll("button")];
  const shown = [...card.querySelectorAll(".over")];
  const captions = [...card.querySelectorAll(".captions > .after")];
  choice.addEventListener("click", (event) => {
    const chosen = buttons.indexOf(event.target);
    if (chosen < 0) return;
    buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(place === chosen)));
    for (const list of [shown, captions]) list.forEach((node, place) => { node.hidden = place !== chosen; });
  });
}
