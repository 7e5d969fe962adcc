// What OpenSSL makes of the processor:  crypto rsa|aes-gcm
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <cstdio>
#include <cstring>
#include <vector>

namespace {

using Bytes = std::vector<unsigned char>;

void print(const Bytes& bytes) {
  for (const unsigned char byte : bytes) printf("%02x", byte);
  puts("");
}

int rsa() {
  FILE* file = fopen("rsa.pem", "r");
  EVP_PKEY* key = file != nullptr ? PEM_read_PrivateKey(file, nullptr, nullptr, nullptr) : nullptr;
  if (key == nullptr) return 1;
  Bytes signature(static_cast<std::size_t>(EVP_PKEY_get_size(key)));
  for (int i = 0; i < 700; ++i) {  // PKCS #1 v1.5 has no random part: each signs the one before
    EVP_MD_CTX* context = EVP_MD_CTX_new();
    Bytes next(signature.size());
    std::size_t size = next.size();
    if (EVP_DigestSignInit(context, nullptr, EVP_sha256(), nullptr, key) != 1 ||
        EVP_DigestSign(context, next.data(), &size, signature.data(), signature.size()) != 1) {
      return 1;
    }
    EVP_MD_CTX_free(context);
    signature = next;
  }
  print(signature);
  return 0;
}

int aes_gcm() {
  Bytes data(1 << 20, 0x5a), out(1 << 20), tag(16);
  const unsigned char key[32] = {1, 2, 3}, iv[12] = {4, 5, 6};
  EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
  for (int round = 0; round < 300; ++round) {
    int size = 0;
    if (EVP_EncryptInit_ex(context, EVP_aes_256_gcm(), nullptr, key, iv) != 1 ||
        EVP_EncryptUpdate(context, out.data(), &size, data.data(), static_cast<int>(data.size())) != 1 ||
        EVP_EncryptFinal_ex(context, tag.data(), &size) != 1 ||
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, 16, tag.data()) != 1) {
      return 1;
    }
    memcpy(data.data(), tag.data(), tag.size());
  }
  print(tag);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return argc > 1 && strcmp(argv[1], "rsa") == 0 ? rsa() : aes_gcm();
}
