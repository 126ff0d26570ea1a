#include "core/strings.h"

#include <limits>

#include "core/error.h"

namespace quarrel {

void Strings::push_back(std::string_view text) {
  if (text.size() > std::numeric_limits<std::uint32_t>::max() - bytes_.size())
    throw InvalidArgument("[strings] expected at most 4 GiB of text");
  bytes_.insert(bytes_.end(), text.begin(), text.end());
  ends_.push_back(static_cast<std::uint32_t>(bytes_.size()));
}

}  // namespace quarrel
