// A test harness in one header: cases that register themselves, and the checks that they make.
//
//     KD_CASE(labels.padding) { CHECK(loss == 0); }                     one case
//     KD_CASE_EACH_TYPE(labels.padding) { const T loss = ...; }         labels.padding.float and
//     labels.padding.double
//
// A failed check is printed and counted, and the case goes on. A case that made no check fails too.
#pragma once

#include <cstring>
#include <exception>
#include <iostream>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace check {

struct Case {
  std::string name;
  void (*run)();
};
inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
inline bool add(const std::string& name, void (*run)()) {
  cases().push_back({name, run});
  return true;
}

inline long made = 0, failed = 0;

template <class... Words>
std::string text(const Words&... words) {
  std::ostringstream out;
  out.precision(17);
  (void)(out << ... << words);
  return out.str();
}

inline void pass() { ++made; }
inline void fail(const char* file, int line, const std::string& what) {
  constexpr long kMostPrinted = 20;
  ++made;
  if (++failed <= kMostPrinted) std::cerr << file << ":" << line << ": " << what << "\n";
}

// The same bit pattern: a NaN equals itself, and 0 is not -0.
template <class T>
bool same_bits(T a, T b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// The largest of many errors, where it was, and what it may be. What was measured is printed even where it
// holds.
class Worst {
 public:
  Worst(std::string name, double tolerance) : name_(std::move(name)), tolerance_(tolerance) {}
  template <class... Words>
  void add(double error, const Words&... where) {
    ++count_;
    if (error <= error_) return;
    error_ = error == error ? error : std::numeric_limits<double>::infinity();  // NaN is the worst of errors
    where_ = text(where...);
  }
  void hold(const char* file, int line) const {
    std::ostringstream out;
    out.precision(3);
    out << name_ << ": largest error " << error_ << " of " << count_ << ", tolerance " << tolerance_
        << (where_.empty() ? "" : ", at " + where_);
    std::cout << out.str() << "\n";
    if (count_ > 0 && error_ <= tolerance_)
      pass();
    else
      fail(file, line, out.str());
  }

 private:
  std::string name_, where_;
  double tolerance_, error_ = 0;
  long count_ = 0;
};

// The message of the exception of type E that f throws.
template <class E, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  } catch (const std::exception& e) {
    return text("another exception, ", e.what());
  }
  return "no exception";
}

inline int run(const Case& chosen) {
  made = failed = 0;
  try {
    chosen.run();
  } catch (const std::exception& e) {
    fail(chosen.name.c_str(), 0, text("unexpected exception: ", e.what()));
  }
  if (made == 0) fail(chosen.name.c_str(), 0, "made no check");
  std::cout << chosen.name << ": " << made << " checks, " << failed << " failed\n";
  return failed == 0 ? 0 : 1;
}

// PROGRAM --list, or PROGRAM NAME.
inline int run_named(const char* program, const std::string& wanted) {
  for (const Case& c : cases()) {
    if (wanted == "--list") std::cout << c.name << "\n";
    if (wanted == c.name) return run(c);
  }
  if (wanted == "--list") return 0;
  std::cerr << "usage: " << program << " --list | NAME; no case is called '" << wanted << "'\n";
  return 2;
}

}  // namespace check

#define CHECK(condition) ((condition) ? check::pass() : check::fail(__FILE__, __LINE__, #condition))
#define CHECK_AT(condition, ...) \
  ((condition) ? check::pass()   \
               : check::fail(__FILE__, __LINE__, check::text(#condition, ", at ", __VA_ARGS__)))
#define CHECK_HOLDS(worst) (worst).hold(__FILE__, __LINE__)
#define CHECK_THROWS(exception, message, ...)                                                     \
  do {                                                                                            \
    const std::string said = check::message_of<exception>([&] { (void)(__VA_ARGS__); });          \
    said == (message)                                                                             \
        ? check::pass()                                                                           \
        : check::fail(__FILE__, __LINE__,                                                         \
                      check::text(#__VA_ARGS__, " says\n  ", said, "\nexpected\n  ", (message))); \
  } while (false)

#define KD_JOIN_(a, b) a##b
#define KD_JOIN(a, b) KD_JOIN_(a, b)
#define KD_CASE(name) KD_CASE_(#name, KD_JOIN(case_, __LINE__), KD_JOIN(added_, __LINE__))
#define KD_CASE_(name, function, added)                 \
  static void function();                               \
  static const bool added = check::add(name, function); \
  static void function()
#define KD_CASE_EACH_TYPE(name) KD_CASE_EACH_TYPE_(#name, KD_JOIN(case_, __LINE__), KD_JOIN(added_, __LINE__))
#define KD_CASE_EACH_TYPE_(name, function, added)                                                 \
  template <class T>                                                                              \
  static void function();                                                                         \
  static const bool added =                                                                       \
      check::add(name ".float", function<float>) && check::add(name ".double", function<double>); \
  template <class T>                                                                              \
  static void function()
