terraform {
  required_version = ">= 1.9" # validations that speak of another variable

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.60, < 7.0"
    }
  }
}
