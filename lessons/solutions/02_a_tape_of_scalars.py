"""Solutions of lesson 02."""


def exercise_1(a, b):
    # Quotient rule; type(a) is the lesson's class Value. Or, without a new rule: a * b ** -1.
    return type(a)(a.value / b.value, ((a, 1 / b.value), (b, -a.value / b.value ** 2)))


def exercise_2(root, leaf):
    # As backward, with 1 in place of each local slope: each arrow passes on as many paths as its node has.
    # The lesson's newest_first does the same as these five lines.
    nodes, stack = {root}, [root]
    while stack:
        for source, _ in stack.pop().sources:
            if source not in nodes:
                nodes.add(source)
                stack.append(source)
    paths = {root: 1}
    for node in sorted(nodes, key=lambda n: -n.born):
        for source, _ in node.sources:
            paths[source] = paths.get(source, 0) + paths[node]
    return paths.get(leaf, 0)
