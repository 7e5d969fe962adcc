# Loops over dictionaries, strings and objects.
import collections


class Point:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y

    def key(self):
        return self.x * 31 + self.y


counts, seed = {}, 12345
for i in range(1200000):
    seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
    key = seed >> 16 & 4095
    counts[key] = counts.get(key, 0) + i
print(sum(key * value for key, value in counts.items()) % 1000000007)

words = collections.defaultdict(list)
for i in range(100000):
    word = "w%d" % (i * 7919 % 5003)
    words[word[:3]].append(word)
print(sorted((len(value), key) for key, value in words.items())[:5])

points = [Point(i % 317, i % 211) for i in range(100000)]
points.sort(key=Point.key)
print(sum(p.key() for p in points[::7]), len({(p.x, p.y) for p in points}))
