// Edges of the block graph: who uses which node for what.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "block/permissions.h"
#include "block/task.h"

namespace ostler::block {

class Node;
using NodePtr = std::shared_ptr<Node>;

// Held while an edge changes, and by those who walk the graph outside of requests. Never over a wait.
std::recursive_mutex& graph_mutex();

// The upper end of an edge: another node, or a user (block/client.h).
class Parent {
 public:
  virtual ~Parent() = default;
  virtual const std::string& parent_name() const = 0;
  // Drain: new requests are held back until drain_end(), then those that have begun are waited for. Calls
  // nest. From any thread, with graph_mutex() held.
  virtual void drain_begin() = 0;
  virtual void drain_end() = 0;
  // Requests that it or its own parents made are under way. Whoever ends the last one while it is drained
  // calls tell_idle().
  virtual bool busy() const = 0;
  // The node's size has changed.
  virtual void resized() {}
};

enum class Role {
  kFile,      // the bytes of a format's image
  kData,      // an image's data without its metadata ("data-file")
  kBacking,   // content where this image has none
  kFiltered,  // what a filter passes requests on to
  kUser,      // from outside the graph
};

// The owner of one edge; the child lives as long. Changed only while the parent is drained.
class Edge {
 public:
  Edge() = default;
  // kBusy when another user of `child` excludes what is wanted, or does what is not shared.
  static Result<Edge> attach(Parent& parent, NodePtr child, std::string name, Role role,
                             Permissions permissions);
  Edge(Edge&& other) noexcept;
  Edge& operator=(Edge&& other) noexcept;
  ~Edge() { detach(); }

  const std::string& name() const { return use_->name; }
  Role role() const { return use_->role; }
  const NodePtr& node() const { return node_; }
  Node* operator->() const { return node_.get(); }
  Node& operator*() const { return *node_; }
  explicit operator bool() const { return node_ != nullptr; }
  Permissions permissions() const { return use_->permissions; }
  // The edge is as it was after an error.
  Result<void> set_permissions(Permissions permissions);
  Result<void> replace(NodePtr child);
  void detach();

  // Makes the users of `from` users of `to`, all, or none and kBusy. Parents in `stay` keep `from`; those in
  // `leaving` use `to` for this moment only, so that what they allow does not count. Both nodes are drained.
  static Result<void> move_users(const NodePtr& from, const NodePtr& to, std::span<const Parent* const> stay,
                                 std::span<const Parent* const> leaving = {});

  // One user of a node, in the node's list.
  struct Use {
    Parent* parent;
    std::string name;
    Role role;
    Permissions permissions;
    Edge* edge = nullptr;
  };

 private:
  NodePtr node_;
  std::unique_ptr<Use> use_;
};

// Wakes those who wait in Drained::begin(). Any thread, without locks.
void tell_idle();

// While it lives, no request that a user makes reaches `node`. Ends by itself or by end().
class Drained {
 public:
  static Task<Drained> begin(NodePtr node);
  Drained(Drained&& other) noexcept : node_(std::move(other.node_)) {}
  Drained& operator=(Drained&&) = delete;
  ~Drained() { end(); }
  void end();

 private:
  explicit Drained(NodePtr node) : node_(std::move(node)) {}
  NodePtr node_;
};

}  // namespace ostler::block
