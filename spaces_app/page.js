/* What acts in the browser alone: the view of a image, and which sample is pressed. */
(() => {
  const viewerOf = control => document.getElementById(control.closest('[data-viewer]').dataset.viewer);

  function apply(control) {
    const viewer = viewerOf(control);
    if (!viewer) return;
    if (control.dataset.set) viewer.style.setProperty('--' + control.dataset.set, control.value / 100);
    if (control.dataset.switch) viewer.classList.toggle(control.dataset.switch, control.checked === (control.dataset.when === 'on'));
  }

  for (const kind of ['input', 'change']) {
    document.addEventListener(kind, event => {
      if (event.target.matches('[data-viewer] [data-set], [data-viewer] [data-switch]')) apply(event.target);
    });
  }

  document.addEventListener('click', event => {
    const reset = event.target.closest('[data-reset]');
    if (!reset) return;
    for (const control of reset.closest('[data-viewer]').querySelectorAll('[data-set], [data-switch]')) {
      if (control.dataset.set) control.value = control.dataset.start;
      else control.checked = control.hasAttribute('data-start');
      apply(control);
    }
  });

  /* Marks the sample that is shown in every tab; none where the image is a visitor's own. */
  window.medsynPress = name => {
    for (const button of document.querySelectorAll('[data-sample]')) {
      button.setAttribute('aria-pressed', String(button.dataset.sample === name));
    }
  };

  /* Zoomed images are dragged, too. */
  let held = null;
  document.addEventListener('pointerdown', event => {
    const stage = event.target.closest('.image-stage');
    if (!stage || event.pointerType !== 'mouse' || stage.scrollWidth <= stage.clientWidth) return;
    held = {stage, x: event.clientX + stage.scrollLeft, y: event.clientY + stage.scrollTop};
    event.preventDefault();
  });
  document.addEventListener('pointermove', event => {
    if (!held) return;
    held.stage.scrollLeft = held.x - event.clientX;
    held.stage.scrollTop = held.y - event.clientY;
  });
  document.addEventListener('pointerup', () => { held = null; });
})();
