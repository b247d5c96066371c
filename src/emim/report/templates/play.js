
// Videos play while they are seen, unless the reader wants no motion. Without scripts they have their controls.
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting && !calm.matches) target.play().catch(() => {});
    else target.pause();
  }
}, { threshold: 0.25 });
for (const video of document.querySelectorAll("video")) seen.observe(video);
calm.addEventListener("change", () => {
  if (calm.matches) for (const video of document.querySelectorAll("video")) video.pause();
});
