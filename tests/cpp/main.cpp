// kd_tests --list | --isas | --fingerprint | NAME
#include "compare.hpp"
#include "full_batch.hpp"

namespace {

// A hash of the bits of many results (FNV-1a).
class Fingerprint {
 public:
  template <class T>
  void add(const std::vector<T>& values) {
    for (T value : values) {
      unsigned char bytes[sizeof(T)];
      std::memcpy(bytes, &value, sizeof value);
      for (unsigned char byte : bytes) hash_ = (hash_ ^ byte) * 0x100000001b3u;
    }
  }
  template <class T>
  void add_all() {
    for (std::int64_t classes : {10, 144, 256, 257, 1000, 5000}) {
      const Result<T> result = run(random_batch<T>(40, classes), 0.5);
      add(result.loss), add(result.grad);
      for (unsigned uses : {kAll & ~unsigned(kSoftLabels), unsigned(kAll)}) {
        const Outcome<T> full = outcome(full_batch<T>(40, classes, uses));
        add(full.loss), add(full.hard), add(full.soft), add(full.grad), add(full.hess);
      }
    }
  }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325u;
};

}  // namespace

int main(int argc, char** argv) {
  const std::string wanted = argc == 2 ? argv[1] : "";
  if (wanted == "--isas") {
    for (const std::string& name : kdloss::available_isas()) std::cout << name << "\n";
    return 0;
  }
  if (wanted == "--fingerprint") {
    Fingerprint fingerprint;
    fingerprint.add_all<float>(), fingerprint.add_all<double>();
    std::cout << std::hex << fingerprint.value() << "\n";
    return 0;
  }
  return check::run_named(argv[0], wanted);
}
