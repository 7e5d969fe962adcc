#include "block/formats/mapped/backing.h"

namespace ostler::block {

Task<Result<NodePtr>> open_backing_of(OpenRequest& request, NodePtr file, std::string name,
                                      std::string format) {
  if (request.has("backing")) {
    if (request.options.left()["backing"].is_null()) {
      request.options.take("backing");
      co_return NodePtr();
    }
    OpenFlags flags = request.flags;
    flags.writable = false;
    co_return co_await request.open_child("backing", flags);
  }
  if (name.empty() || request.flags.no_backing) co_return NodePtr();
  co_return co_await request.opener.open_backing(file->filename(), name, format, request.flags,
                                                 request.depth);
}

}  // namespace ostler::block
