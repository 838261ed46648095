// kd_tests --list | --isas | --fingerprint | NAME
#include "compare.hpp"

namespace {

// A number that stands for the bits of many results (FNV-1a).
template <class T>
std::uint64_t fingerprint(std::uint64_t hash) {
  for (std::int64_t classes : {10, 144, 145, 1000, 5000}) {
    const Result<T> result = run(random_batch<T>(40, classes), 0.5);
    for (const std::vector<T>* values : {&result.loss, &result.grad})
      for (T value : *values) {
        unsigned char bytes[sizeof(T)];
        std::memcpy(bytes, &value, sizeof value);
        for (unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3u;
      }
  }
  return hash;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string wanted = argc == 2 ? argv[1] : "";
  if (wanted == "--isas") {
    for (const std::string& name : kdloss::available_isas()) std::cout << name << "\n";
    return 0;
  }
  if (wanted == "--fingerprint") {
    std::cout << std::hex << fingerprint<double>(fingerprint<float>(0xcbf29ce484222325u)) << "\n";
    return 0;
  }
  return check::run_named(argv[0], wanted);
}
