#include "img/objects.h"

#include <gtest/gtest.h>

namespace ostler::img {
namespace {

std::string error_of(const std::string& description) {
  block::Opener opener;
  auto added = add_object(opener, description);
  return added ? "" : added.error().message();
}

TEST(Objects, ASecretIsFoundByItsId) {
  block::Opener opener;
  ASSERT_TRUE(add_object(opener, "secret,id=key,data=open sesame"));
  EXPECT_EQ(*opener.secret("key", "key-secret"), "open sesame");
  EXPECT_NE(opener.secret("other", "key-secret").error().message().find("--object secret,id=other"),
            std::string::npos);
}

TEST(Objects, Base64IsDecoded) {
  block::Opener opener;
  ASSERT_TRUE(add_object(opener, "secret,id=key,data=b3BlbiBzZXNhbWU=,format=base64"));
  EXPECT_EQ(*opener.secret("key", "key-secret"), "open sesame");
}

TEST(Objects, MistakesAreNamed) {
  EXPECT_NE(error_of("secret,id=key").find("file=PATH"), std::string::npos);
  EXPECT_NE(error_of("secret,data=x").find("'id'"), std::string::npos);
  EXPECT_NE(error_of("secret,id=key,data=x,file=y").find("one of"), std::string::npos);
  EXPECT_NE(error_of("secret,id=key,file=/nonexistent/key").find("/nonexistent/key"), std::string::npos);
  EXPECT_NE(error_of("secret,id=key,data=*,format=base64").find("base64"), std::string::npos);
  EXPECT_NE(error_of("tls-creds-x509,id=tls").find("--object: tls-creds-x509 'tls': option 'dir' is missing"),
            std::string::npos);
  EXPECT_NE(error_of("tls-creds-psk,dir=/nonexistent").find("'id'"), std::string::npos);
  EXPECT_EQ(
      error_of("tls-creds-anon,id=tls"),
      "--object: objects of type 'tls-creds-anon' are not known here; there are secret, tls-creds-x509 and "
      "tls-creds-psk");
}

TEST(Objects, AnIdIsGivenOnce) {
  block::Opener opener;
  ASSERT_TRUE(add_object(opener, "secret,id=key,data=x"));
  EXPECT_FALSE(add_object(opener, "secret,id=key,data=y"));
}

}  // namespace
}  // namespace ostler::img
