// The part of std::format that mlx-c uses, for standard libraries without it.
#pragma once

#include <version>

#if defined(__cpp_lib_format)
#include <format>
#else

#include <sstream>
#include <string>
#include <string_view>

namespace std {

inline void umrt_format_to(ostringstream& out, string_view pattern) {
  out << pattern;
}

template <typename First, typename... Rest>
void umrt_format_to(
    ostringstream& out,
    string_view pattern,
    const First& first,
    const Rest&... rest) {
  const auto hole = pattern.find("{}");
  out << pattern.substr(0, hole);
  if (hole != string_view::npos) {
    out << first;
    umrt_format_to(out, pattern.substr(hole + 2), rest...);
  }
}

template <typename... Args>
string format(string_view pattern, const Args&... args) {
  ostringstream out;
  umrt_format_to(out, pattern, args...);
  return out.str();
}

} // namespace std

#endif
