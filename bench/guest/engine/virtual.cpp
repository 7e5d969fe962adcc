// Virtual calls, standard containers and strings: an expression tree that is evaluated again and again.
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

struct Node {
  virtual ~Node() = default;
  virtual std::uint64_t value(std::uint64_t x) const = 0;
  virtual std::string name() const = 0;
};
using Owner = std::unique_ptr<Node>;

struct Constant : Node {
  explicit Constant(std::uint64_t v) : v_(v) {}
  std::uint64_t value(std::uint64_t) const override { return v_; }
  std::string name() const override { return std::to_string(v_); }
  std::uint64_t v_;
};
struct Variable : Node {
  std::uint64_t value(std::uint64_t x) const override { return x; }
  std::string name() const override { return "x"; }
};
struct Pair : Node {
  Pair(Owner a, Owner b) : a_(std::move(a)), b_(std::move(b)) {}
  Owner a_, b_;
};
struct Sum : Pair {
  using Pair::Pair;
  std::uint64_t value(std::uint64_t x) const override { return a_->value(x) + b_->value(x); }
  std::string name() const override { return "(" + a_->name() + "+" + b_->name() + ")"; }
};
struct Product : Pair {
  using Pair::Pair;
  std::uint64_t value(std::uint64_t x) const override { return a_->value(x) * b_->value(x); }
  std::string name() const override { return a_->name() + "*" + b_->name(); }
};
struct Exclusive : Pair {
  using Pair::Pair;
  std::uint64_t value(std::uint64_t x) const override { return a_->value(x) ^ (b_->value(x) >> 3); }
  std::string name() const override { return "(" + a_->name() + "^" + b_->name() + ")"; }
};

Owner tree(std::uint32_t& seed, int depth) {
  seed = seed * 1664525 + 1013904223;
  if (depth == 0) {
    if (seed >> 30 & 1) return std::make_unique<Variable>();
    return std::make_unique<Constant>(seed >> 16 & 1023);
  }
  const std::uint32_t kind = seed >> 28;
  Owner left = tree(seed, depth - 1), right = tree(seed, depth - 1);
  if (kind < 6) return std::make_unique<Sum>(std::move(left), std::move(right));
  if (kind < 11) return std::make_unique<Product>(std::move(left), std::move(right));
  return std::make_unique<Exclusive>(std::move(left), std::move(right));
}

}  // namespace

int main() {
  std::uint32_t seed = 1;
  std::vector<Owner> trees;
  for (int i = 0; i < 16; ++i) trees.push_back(tree(seed, 10));
  std::uint64_t sum = 0;
  for (std::uint64_t round = 0; round < 30000; ++round)
    sum = sum * 31 + trees[round % 16]->value(round * 0x9e3779b97f4a7c15);
  std::map<std::string, int> pieces;
  for (const auto& one : trees) {
    const std::string name = one->name();
    for (std::size_t at = 0; at + 6 < name.size(); at += 2) ++pieces[name.substr(at, 6)];
  }
  for (const auto& [piece, count] : pieces) sum = sum * 31 + static_cast<std::uint64_t>(count) * piece.size();
  printf("%llu\n", static_cast<unsigned long long>(sum));
}
