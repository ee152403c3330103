// Which answers are asked for together: all whose experts are named by one request, so that they run in the same steps.

/** As many experts as one request may name. */
const MAX_TOGETHER = 8;

/** The answers of a turn, those of one request together. What the router chooses has a request of its own. */
export function requestsFor(answers) {
  const groups = answers.filter(({ asked }) => asked === "").map((answer) => [answer]);
  const named = answers.filter(({ asked }) => asked !== "");
  for (let at = 0; at < named.length; at += MAX_TOGETHER) groups.push(named.slice(at, at + MAX_TOGETHER));
  return groups;
}

/** The field of a request that says who gives its answers. */
export function whoAnswers(answers) {
  const names = answers.map(({ asked }) => asked);
  if (names.length > 1) return { experts: names };
  return names[0] === "" ? {} : { expert: names[0] };
}
