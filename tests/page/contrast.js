// Texts with less contrast than WCAG 2.1 asks for (1.4.3: 4.5 to 1), each with its ratio.
(() => {
  const parse = text => {
    const parts = text.match(/[\d.]+/g).map(Number);
    const rgb = text.startsWith("color(") ? parts.slice(0, 3).map(one => one * 255) : parts.slice(0, 3);
    return [...rgb, parts.length > 3 ? parts[3] : 1];
  };
  const light = rgb => rgb.slice(0, 3).map(one => one / 255)
    .map(one => one <= .03928 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4)
    .reduce((sum, one, index) => sum + one * [.2126, .7152, .0722][index], 0);
  const behind = element => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) layers.push(parse(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((under, over) => under.map((value, index) => value * (1 - over[3]) + over[index] * over[3]), [255, 255, 255]);
  };
  const poor = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || ["SCRIPT", "STYLE"].includes(element.tagName) || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(element.namespaceURI.endsWith("svg") ? style.fill : style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) poor.push(`${texts.currentNode.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return poor;
})()
